"""From a config to a training state: a new one, or one that starts from a checkpoint's weights.

In: a checked config. Out: `Training`, all that the loop needs; `plan` says what it would cost before any of it.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kiara_cli.config import load as config_load
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import files
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.checkpoint.run import Lock, Run
from kiara_cli.core.data.batches import Batcher
from kiara_cli.core.data.conversations import ConversationBatcher
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.loss import Objective
from kiara_cli.core.model.count import Count, count
from kiara_cli.core.model.fused import decide_fused, fuse, load
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.compile import decide_compile
from kiara_cli.core.runtime.device import Runtime, decide, matrix_rate, pick_device, seed_everything
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, Tokenizer
from kiara_cli.core.train.average import Average
from kiara_cli.core.train.feed import Feed, rows_at_once
from kiara_cli.core.train.numerics import FIRST_SCALE
from kiara_cli.core.train.optimizer import make_optimizer
from kiara_cli.core.train.progress import Progress, random_state
from kiara_cli.core.train.recompute import recompute_blocks
from kiara_cli.core.train.writers import check_writers
from kiara_cli.errors import KiaraError

USUAL_SHARE = 0.5  # of the machine's peak that training reaches, to estimate how long it takes (a guess)
PAD_TO = 64  # the model's vocabulary is rounded up to this, as products with odd widths are slow

log = logging.getLogger("kiara.train")


@dataclass
class Training:
    """One training in progress."""

    config: Config
    runtime: Runtime
    data: Prepared
    model: Transformer
    optimizer: torch.optim.Optimizer
    batcher: Batcher | ConversationBatcher
    run: Run
    lock: Lock  # this process's claim on the run
    progress: Progress
    states: Callable[..., Tensor]  # the model's, or the same compiled
    average: Average | None
    metrics: dict[str, Any] = field(default_factory=dict)  # the newest, as checkpoints carry them

    @cached_property
    def feed(self) -> Feed:
        return Feed(self.batcher, self.config.train.accumulation, self.runtime.device)

    @cached_property
    def objective(self) -> Objective:
        train = self.config.train
        return Objective(train.z_loss, train.label_smoothing, train.loss_chunk)

    @cached_property
    def weights(self) -> list[nn.Parameter]:
        """The model's parameters, listed once: small models take a step in less time than ten listings."""
        return list(self.model.parameters())

    @property
    def separator(self) -> int | None:
        """The id that opens a conversation, where rows hold several that must not see each other."""
        return self.data.tokenizer.specials[END_OF_TEXT] if self.data.meta.conversations else None

    @property
    def total_steps(self) -> int:
        return total_steps(self.config, self.batcher)

    def checkpoint(self, metrics: Mapping[str, Any], resumable: bool) -> Checkpoint:
        """Collect what a checkpoint holds; with `resumable`, the optimizer and progress too."""
        self.progress.random = random_state(self.runtime.device)
        self.progress.average = self.average.state() if self.average is not None else {}
        return Checkpoint(
            model=files.weights_of(self.model),
            config=config_load.to_mapping(self.config),
            tokenizer=self.data.tokenizer.state(),
            metrics=dict(metrics),
            data={
                "folder": str(self.data.folder),
                "hash": self.data.meta.hash,
                "tokenizer_hash": self.data.meta.tokenizer_hash,
                "name": self.data.meta.name,
                "conversations": self.data.meta.conversations,
            },
            optimizer=self.optimizer.state_dict() if resumable else None,
            progress=dataclasses.asdict(self.progress) if resumable else None,
        )


@dataclass(frozen=True)
class Plan:
    """What a training will do and cost, before it starts."""

    config: Config
    data: Prepared
    batcher: Batcher | ConversationBatcher
    steps: int
    epochs: float
    tokens: int
    count: Count

    @property
    def training_bytes(self) -> int:
        context, device = self.config.model.context_length, pick_device(self.config.runtime.device)
        return self.count.training_bytes(context * rows_at_once(self.config.train.batch_size, context, device))

    @property
    def training_flops(self) -> int:
        return self.count.training_flops * self.tokens


def settle(config: Config, tokenizer: Tokenizer) -> Config:
    """Fix what follows from the rest: the model's vocabulary, and how many batches make train.batch_tokens.

    Raises KiaraError if the vocabulary asked for is too small.
    """
    padded = math.ceil(tokenizer.size / PAD_TO) * PAD_TO
    vocab_size = config.model.vocab_size or padded
    if vocab_size < tokenizer.size:
        raise KiaraError(
            f"model.vocab_size={vocab_size} is smaller than the tokenizer's {tokenizer.size} ids",
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
    return dataclasses.replace(config, model=model, train=train)


def plan(config: Config, data: Prepared) -> Plan:
    """Work out steps, tokens, memory and FLOPs. Raises KiaraError if the data does not fill one window."""
    config = settle(config, data.tokenizer)
    batcher = make_batcher(config, data)
    steps = total_steps(config, batcher)
    rows = config.train.batch_size * config.train.accumulation
    tokens = steps * rows * config.model.context_length
    return Plan(config, data, batcher, steps, steps * rows / batcher.windows, tokens, count(config.model))


def begin(
    config: Config, data: Prepared, root: Path, weights: Checkpoint | None = None, name: str | None = None
) -> Training:
    """Start a new run in a new folder, from random weights or from a checkpoint's."""
    check_writers(config)
    planned = plan(config, data)
    config, runtime = decide_auto(planned)
    seed_everything(config.runtime.seed)
    model = Transformer(config.model)
    if weights is not None:
        weights.check_trainable()
        files.load_weights(model, weights.model, str(weights.path))
    progress = Progress(loss_scale=FIRST_SCALE if runtime.dtype == "fp16" else 1.0)
    run = Run.create(root, name or data.meta.name)
    training = assemble(config, runtime, data, model, run, run.lock(), progress)
    describe(training, {"from": str(weights.path)} if weights else {})
    return training


def assemble(
    config: Config, runtime: Runtime, data: Prepared, model: Transformer, run: Run, lock: Lock, progress: Progress
) -> Training:
    """Put a training together from decided parts."""
    model.to(runtime.device)
    if config.runtime.native is True:
        fuse(model, load())
    if config.train.recompute:
        recompute_blocks(model)
    states = torch.compile(model.states, dynamic=False) if config.runtime.compile is True else model.states
    average = Average(model, config.train.ema_decay) if config.train.ema_decay else None
    optimizer, batcher = make_optimizer(model, config.train), make_batcher(config, data)
    return Training(config, runtime, data, model, optimizer, batcher, run, lock, progress, states, average)


def make_batcher(config: Config, data: Prepared) -> Batcher | ConversationBatcher:
    """Cut the training split into batches as the config says."""
    context = config.model.context_length
    if data.meta.conversations:
        specials = data.tokenizer.specials
        train, seed = config.train, config.runtime.seed
        return ConversationBatcher(data.train, specials, context, train.batch_size, seed, train.loss_on, train.primer)
    stride = config.data.stride or context
    return Batcher(data.train, context, config.train.batch_size, stride, config.runtime.seed, config.data.sampling)


def total_steps(config: Config, batcher: Batcher | ConversationBatcher) -> int:
    """Return how many updates a run makes: max_steps, or fewer where max_epochs is reached first."""
    if config.train.max_epochs is None:
        return config.train.max_steps
    steps = math.ceil(config.train.max_epochs * batcher.steps_per_epoch / config.train.accumulation)
    return max(1, min(config.train.max_steps, steps))


def decide_auto(planned: Plan) -> tuple[Config, Runtime]:
    """Decide every `auto`, once a run, and write the decisions into the config that the run stores."""
    config = planned.config
    runtime = decide(config.runtime)
    fuses, why_fused = decide_fused(config.runtime, runtime)
    usual = USUAL_SHARE * matrix_rate(runtime.device, runtime.dtype)
    wanted = False if fuses else config.runtime.compile
    compiles, why = decide_compile(wanted, runtime.device, planned.training_flops / usual)
    for key, kept, reason in (("compile", compiles, why), ("native", fuses, why_fused)):
        if getattr(config.runtime, key) is True and not kept:
            log.warning("runtime.%s=true cannot be honoured: %s", key, reason)
    threads = f"{runtime.threads} thread{'s' if runtime.threads > 1 else ''}"
    how = "C loops" if fuses else f"{'compiled' if compiles else 'not compiled'}: {why}; no C loops: {why_fused}"
    log.info("On %s, %s, %s, %s.", runtime.device_name, runtime.dtype, threads, how)
    decided = dataclasses.replace(
        config.runtime,
        device=runtime.device_name,
        dtype=runtime.dtype,
        threads=runtime.threads,
        compile=compiles,
        native=fuses,
    )
    return dataclasses.replace(config, runtime=decided), runtime


def describe(training: Training, facts: Mapping[str, Any]) -> None:
    """Write config.yaml and run.json."""
    meta = training.data.meta
    training.run.describe(
        training.config,
        {
            "status": "running",
            "seed": training.config.runtime.seed,
            "data_folder": str(training.data.folder),
            "data_hash": meta.hash,
            "tokenizer_hash": meta.tokenizer_hash,
            "parameters": count(training.config.model).parameters,
            **facts,
        },
    )
