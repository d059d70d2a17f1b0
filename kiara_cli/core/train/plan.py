"""What a training will do, decided before anything is built or written.

In: a checked config and a data folder. Out: a frozen `Plan`: every `auto` decided, the batches, how many steps and
what limits them, and what it costs in tokens, memory and floating-point operations.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kiara_cli.config.schema import DEFAULT_STEPS, Config, RuntimeConfig, TrainConfig
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.data.batches import Batcher
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.data.mixture import Part, mixed
from kiara_cli.core.data.packing import PackedBatcher
from kiara_cli.core.data.pairs import PairBatcher
from kiara_cli.core.data.segments import Contents, find_segments
from kiara_cli.core.data.windows import WindowBatcher
from kiara_cli.core.model.count import Count, count
from kiara_cli.core.model.fused import decide_fused
from kiara_cli.core.model.lora import adapter_parameters
from kiara_cli.core.runtime.compile import decide_compile
from kiara_cli.core.runtime.device import Runtime, decide, planning_rate
from kiara_cli.core.runtime.parallel import ALONE, World
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.core.train.preference import batcher_of, check_pairs
from kiara_cli.core.train.spread import decide_parallel, shares_in_words
from kiara_cli.core.train.writers import check_writers
from kiara_cli.errors import KiaraError

USUAL_SHARE = 0.5  # of the machine's peak that training reaches, to estimate how long it takes (a guess)
LIMITS = ("train.max_steps", "train.max_epochs")
PAD_TO = 64  # the model's vocabulary is rounded up to this, as products with odd widths are slow


def trained_parameters(config: Config) -> int:
    """Count the numbers that are trained: all parameters, or those of the adapter."""
    lora = config.train.lora
    return adapter_parameters(config.model, lora) if lora.rank else count(config.model).parameters


def training_flops(config: Config) -> int:
    """Count the FLOPs per token of a training step. Frozen weights need no gradients of their own: a third less."""
    counted = count(config.model)
    return counted.training_flops - (counted.forward_flops if config.train.lora.rank else 0)


@dataclass(frozen=True)
class Plan:
    """What a training will do and cost. A run stores `config`, so that resuming decides nothing anew."""

    config: Config
    runtime: Runtime
    data: Prepared
    batcher: Batcher
    learned: Contents  # of the training split
    measured: Contents  # of the validation split, as far as it is measured
    steps: int
    limit: str  # the setting that ends the run: train.max_steps or train.max_epochs
    tokens: int  # inputs of all steps together
    how: str  # device, precision, threads; compiled or with native code, or why neither
    unmet: Mapping[str, str]  # keys of `runtime` that ask for what this machine cannot do, and why
    parts: Sequence[Part] = ()  # what is learned from beside `data`
    quantized: Mapping[str, Any] | None = None  # how the weights that an adapter leaves as they are lie in memory
    world: World = ALONE  # the processes that train together

    @cached_property
    def count(self) -> Count:
        return count(self.config.model)

    @cached_property
    def trained(self) -> int:
        """How many numbers are trained: all parameters, or those of the adapter."""
        return trained_parameters(self.config)

    @property
    def together(self) -> str:
        """How many processes train, and how they share the model; empty for one."""
        return f"{self.world.size} ranks, {self.config.runtime.parallel}" if self.world.size > 1 else ""

    @property
    def flops_per_token(self) -> int:
        """FLOPs per token of a training step."""
        return training_flops(self.config)

    @property
    def tokens_per_step(self) -> int:
        return self.tokens // self.steps

    @property
    def epochs(self) -> float:
        return self.tokens / (self.config.model.context_length * self.batcher.rows)

    @property
    def training_flops(self) -> int:
        return self.flops_per_token * self.tokens


def plan(
    config: Config,
    data: Prepared,
    base: Checkpoint | None = None,
    parts: Sequence[Part] = (),
    world: World = ALONE,
) -> Plan:
    """Decide everything; of an adapter, `base` is the checkpoint that it belongs to.

    Raises KiaraError for settings that contradict each other, the data or the machine.
    """
    check_writers(config)
    config = settle(config, data.tokenizer)
    own = make_batcher(config, data, any(part.data.meta.train_conversations for part in parts))
    learned, measured = count_targets(config, data, own)
    batcher = with_parts(config, data, own, parts)
    steps, limit = total_steps(config.train, batcher)
    tokens = steps * config.train.batch_size * config.train.accumulation * config.model.context_length
    flops = count(config.model).training_flops * tokens
    hook, shares = hook_on_model(config), ""
    if world.size > 1:
        config = dataclasses.replace(
            config, runtime=dataclasses.replace(config.runtime, parallel=decide_parallel(config, world))
        )
        shares = shares_in_words(config, batcher.places, world)
    decided, runtime, how, unmet = decide_runtime(config.runtime, flops, hook, world)
    config = dataclasses.replace(config, runtime=decided)
    quantized = base.quantize if base is not None else None
    return Plan(
        config, runtime, data, batcher, learned, measured, steps, limit, tokens, shares + how, unmet, tuple(parts),
        quantized, world,
    )  # fmt: skip


def settle(config: Config, tokenizer: Tokenizer) -> Config:
    """Fix what follows from the rest. Raises KiaraError if the vocabulary asked for is too small."""
    return settle_sizes(config, tokenizer.size)


def settle_sizes(config: Config, ids: int) -> Config:
    """Do that for a tokenizer of so many ids: vocabulary, batches of train.batch_tokens, default steps."""
    padded = math.ceil(ids / PAD_TO) * PAD_TO
    vocab_size = config.model.vocab_size or padded
    if vocab_size < ids:
        raise KiaraError(
            f"model.vocab_size={vocab_size} is smaller than the tokenizer's {ids} ids",
            f"leave it out, or set it to {padded}",
        )
    train, model = config.train, dataclasses.replace(config.model, vocab_size=vocab_size)
    if train.batch_tokens is not None:
        needed = max(1, round(train.batch_tokens / (train.batch_size * model.context_length)))
        if train.accumulation not in (1, needed):
            raise KiaraError(
                f"train.batch_tokens={train.batch_tokens} needs train.accumulation={needed}, "
                f"not {train.accumulation}",
                "leave one of the two out",
            )
        train = dataclasses.replace(train, accumulation=needed)
    if train.max_steps is None and train.max_epochs is None:
        train = dataclasses.replace(train, max_steps=DEFAULT_STEPS)
    return dataclasses.replace(config, model=model, train=train)


def make_batcher(config: Config, data: Prepared, packs: bool = False) -> Batcher:
    """Cut the training split into batches as the config says; documents are packed, too, if they are to be."""
    context, train, seed = config.model.context_length, config.train, config.runtime.seed
    check_pairs(config, data)
    if train.objective != "next_token":
        return batcher_of(config, data)
    if data.meta.train_conversations or packs:
        specials = data.tokenizer.specials
        return PackedBatcher(data.train, specials, context, train.batch_size, seed, train.loss_on, train.primer)
    stride = config.data.stride or context
    try:
        return WindowBatcher(data.train, context, train.batch_size, stride, seed, config.data.sampling)
    except KiaraError as error:
        raise KiaraError(f"{config.data.source}: {error.cause}", error.remedy) from None


def with_parts(config: Config, data: Prepared, own: Batcher, parts: Sequence[Part]) -> Batcher:
    """Mix what is learned from besides into the run's own batches."""
    if parts and isinstance(own, PairBatcher):
        raise KiaraError(
            f"train.objective={config.train.objective} learns from pairs alone",
            "leave out data.replay and the weights of data.sources",
        )
    packs = isinstance(own, PackedBatcher)
    if packs and config.train.primer:  # it is of the run's own conversations
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, primer=False))
    others = [(part, make_batcher(config, part.data, packs)) for part in parts]
    for part, batcher in others:
        if not batcher.rows:
            raise KiaraError(f"there is nothing to learn in {part.data.meta.source}", "leave it out")
    return mixed(own, others)


def count_targets(config: Config, data: Prepared, batcher: Batcher) -> tuple[Contents, Contents]:
    """Count what is learned and what is measured. Raises KiaraError if there is none of either, or nothing common."""
    context, limit, source = config.model.context_length, config.eval.max_tokens, config.data.source
    held_out = f"data.val_source={config.data.val_source}" if config.data.val_source else f"what {source} holds out"
    specials, val = data.tokenizer.specials, data.val if limit is None else data.val[: limit + 1]
    learned, measured = (Contents(document_targets=max(0, len(part) - 1)) for part in (data.train, val))
    if isinstance(batcher, PackedBatcher | PairBatcher):
        learned = batcher.contents
    if data.meta.conversations:
        measured = find_segments(val, specials, context + 1).contents
    learned.check(f"the training split of {source}", context)
    measured.check(held_out if limit is None else f"the first eval.max_tokens={limit} tokens of {held_out}", context)
    if not (learned.document_targets and measured.document_targets) and not (
        learned.conversation_targets and measured.conversation_targets
    ):
        kinds = ("documents", "conversations") if measured.document_targets else ("conversations", "documents")
        raise KiaraError(
            f"{held_out} holds {kinds[0]}, {source} only {kinds[1]}: nothing of what is learned would be measured",
            f"give a data.val_source with {kinds[1]}, or leave it out to hold out a part of {source}",
        )
    return learned, measured


def total_steps(train: TrainConfig, batcher: Batcher) -> tuple[int, str]:
    """Return how many updates a run makes, and which setting says so: of two that are set, the smaller."""
    limits = [(train.max_steps, LIMITS[0])] if train.max_steps is not None else []
    if train.max_epochs is not None:
        steps = math.ceil(train.max_epochs * batcher.rows / (train.batch_size * train.accumulation))
        limits.append((max(1, steps), LIMITS[1]))
    return min(limits)


def hook_on_model(config: Config) -> str | None:
    """Name a hook of the config that attaches to the model, if one does. Raises KiaraError for a wrong hook."""
    if not config.hooks:
        return None
    from kiara_cli.core.hooks.training import reaches_into_model

    return reaches_into_model(config.hooks, config.model)


def decide_runtime(
    wanted: RuntimeConfig, flops: int, hook: str | None = None, world: World = ALONE
) -> tuple[RuntimeConfig, Runtime, str, dict[str, str]]:
    """Decide every `auto` of the machine for a training of so many operations; threads are decided at every start.

    Also return in words how it will compute, and what was asked for that this machine cannot do, with the reason.
    A `hook` on the model excludes torch.compile, which would trace its Python code once and not call it again.
    """
    runtime = decide(wanted, trains=True, world=world)
    fuses, why_fused = decide_fused(wanted, runtime)
    usual = USUAL_SHARE * planning_rate(runtime) * world.size
    if hook is not None and not fuses and wanted.compile is not False:
        compiles, why = False, f"hooks.{hook} is on the model, and a compiled model would not call it"
    elif world.size > 1 and wanted.parallel == "fsdp" and not fuses and wanted.compile is not False:
        compiles, why = False, "runtime.parallel=fsdp puts weights together between its operators"
    else:
        compiles, why = decide_compile(False if fuses else wanted.compile, runtime.device, flops / usual)
    found = {"compile": (compiles, why), "native": (fuses, why_fused)}
    unmet = {key: reason for key, (kept, reason) in found.items() if getattr(wanted, key) is True and not kept}
    threads = f"{runtime.threads} thread{'s' if runtime.threads > 1 else ''}"
    plain = f"not compiled ({why}), no C loops ({why_fused})"
    how = "C loops" if fuses else f"compiled ({why})" if compiles else plain
    if compiles:  # for so many threads: with others it would all be compiled again
        runtime = dataclasses.replace(runtime, adaptive=False)
    decided = dataclasses.replace(
        wanted,
        device=runtime.device_name,
        dtype=runtime.dtype,
        compile=compiles,
        native=fuses,
    )
    return decided, runtime, f"{runtime.device_name}, {runtime.dtype}, {threads}, {how}", unmet
