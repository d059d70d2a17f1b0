"""From a config to a training state: a new one, one that starts from a checkpoint's weights, or a resumed one.

In: a checked config. Out: `Training`, all that the loop needs; `plan` says what it would cost before any of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kiara_cli.config import load as config_load
from kiara_cli.config.load import Loaded
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import files
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.data.batches import Batcher
from kiara_cli.core.data.conversations import ConversationBatcher
from kiara_cli.core.data.prepare import Prepared
from kiara_cli.core.model.count import Count, count
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime, decide, seed_everything
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, Tokenizer
from kiara_cli.core.train.optimizer import make_optimizer
from kiara_cli.errors import KiaraError

PAD_TO = 64  # the model's vocabulary is rounded up to this, as products with odd widths are slow
RESUMABLE = {"logging", "eval", "generate"}  # sections that a resumed run may change
RESUMABLE_KEYS = {
    f"train.{key}"
    for key in (
        "max_steps",
        "log_interval",
        "eval_interval",
        "checkpoint_interval",
        "keep_last",
        "save_safetensors",
    )
}


@dataclass
class Progress:
    """Where training stands. With weights and optimizer, all that an exact resume needs."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_val_loss: float | None = None
    best_step: int = 0
    random: dict[str, Tensor] = field(default_factory=dict)  # torch's generators, by device


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
    progress: Progress

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
        return Checkpoint(
            model=files.weights_of(self.model),
            config=config_load.to_mapping(self.config),
            tokenizer=self.data.tokenizer.state(),
            metrics=dict(metrics),
            data={
                "folder": str(self.data.folder),
                "hash": self.data.meta.hash,
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
        train = self.config.train
        return self.count.training_bytes(train.batch_size * self.config.model.context_length)

    @property
    def training_flops(self) -> int:
        return self.count.training_flops * self.tokens


def settle(config: Config, tokenizer: Tokenizer) -> Config:
    """Fix what the tokenizer decides: the model's vocabulary. Raises KiaraError if the one asked for is too small."""
    padded = math.ceil(tokenizer.size / PAD_TO) * PAD_TO
    vocab_size = config.model.vocab_size or padded
    if vocab_size < tokenizer.size:
        raise KiaraError(
            f"model.vocab_size={vocab_size} is smaller than the tokenizer's {tokenizer.size} ids",
            f"leave it out, or set it to {padded}",
        )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocab_size))


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
    config = settle(config, data.tokenizer)
    batcher = make_batcher(config, data)
    config, runtime = _decide(config)
    seed_everything(config.runtime.seed)
    model = Transformer(config.model)
    if weights is not None:
        files.load_weights(model, weights.model, str(weights.path))
    model.to(runtime.device)
    run = Run.create(root, name or data.meta.name)
    training = Training(config, runtime, data, model, make_optimizer(model, config.train), batcher, run, Progress())
    _describe(training, {"from": str(weights.path)} if weights else {})
    return training


def resume(config: Config, checkpoint: Checkpoint, data: Prepared, run: Run) -> Training:
    """Continue a run where `checkpoint` left it: the next step sees what it would have seen."""
    if checkpoint.progress is None or checkpoint.optimizer is None:
        raise KiaraError(
            f"{checkpoint.path} holds weights alone and cannot be resumed",
            f"start a new run from it: kiara train --from {checkpoint.path}",
        )
    config, runtime = _decide(config)
    model = checkpoint.make_model(config.model).to(runtime.device)
    optimizer = make_optimizer(model, config.train)
    optimizer.load_state_dict(dict(checkpoint.optimizer))
    progress = Progress(**checkpoint.progress)
    set_random_state(progress.random)
    run.cut_records(progress.step)
    training = Training(config, runtime, data, model, optimizer, make_batcher(config, data), run, progress)
    _describe(training, {})
    return training


def resumed_config(loaded: Loaded, checkpoint: Checkpoint) -> Config:
    """Return the stored config with what may change taken from the layers that set it.

    Raises KiaraError for a change that would make it another training.
    """
    stored = config_load.from_mapping(checkpoint.config, str(checkpoint.path)).config
    changed: dict[str, Any] = {}
    for key, origin in loaded.origins.items():
        wanted, kept = config_load.value_at(loaded.config, key), config_load.value_at(stored, key)
        if origin == str(config_load.IMPLICIT) or wanted == kept:
            continue
        if key.split(".")[0] not in RESUMABLE and key not in RESUMABLE_KEYS:
            raise KiaraError(
                f"{origin}: {key}={wanted}: the run to resume has {key}={kept}",
                "leave it out, or start a new run without --resume",
            )
        if key == "train.max_steps" and wanted < (done := (checkpoint.progress or {}).get("step", 0)):
            raise KiaraError(
                f"train.max_steps={wanted}: the run has made {done} steps already", "give a larger number"
            )
        changed[key] = wanted
    sections = {key.split(".")[0] for key in changed}
    replaced = {
        section: dataclasses.replace(
            getattr(stored, section),
            **{key.split(".")[1]: value for key, value in changed.items() if key.startswith(f"{section}.")},
        )
        for section in sections
    }
    return dataclasses.replace(stored, **replaced)


def make_batcher(config: Config, data: Prepared) -> Batcher | ConversationBatcher:
    """Cut the training split into batches as the config says."""
    context = config.model.context_length
    if data.meta.conversations:
        specials = data.tokenizer.specials
        train, seed = config.train, config.runtime.seed
        return ConversationBatcher(data.train, specials, context, train.batch_size, seed, train.loss_on, train.primer)
    stride = config.data.stride or context
    return Batcher(data.train, context, config.train.batch_size, stride, config.runtime.seed)


def total_steps(config: Config, batcher: Batcher | ConversationBatcher) -> int:
    """Return how many updates a run makes: max_steps, or fewer where max_epochs is reached first."""
    if config.train.max_epochs is None:
        return config.train.max_steps
    steps = math.ceil(config.train.max_epochs * batcher.steps_per_epoch / config.train.accumulation)
    return max(1, min(config.train.max_steps, steps))


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's generators that training draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Undo `random_state`."""
    setters = {"cpu": torch.set_rng_state, "cuda": torch.cuda.set_rng_state, "mps": torch.mps.set_rng_state}
    for device, value in state.items():
        setters[device](value)


def _decide(config: Config) -> tuple[Config, Runtime]:
    """Decide every `auto` and write the decisions into the config."""
    runtime = decide(config.runtime)
    decided = dataclasses.replace(
        config.runtime, device=runtime.device_name, dtype=runtime.dtype, threads=runtime.threads
    )
    return dataclasses.replace(config, runtime=decided), runtime


def _describe(training: Training, facts: Mapping[str, Any]) -> None:
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
