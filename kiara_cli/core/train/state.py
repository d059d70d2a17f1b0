"""A training in progress: what the loop works on, and all that an exact resume needs.

In: a plan, and the parts built after it. Out: `Training`, and the checkpoint that holds its state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kiara_cli.config import load as config_load
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import files
from kiara_cli.core.checkpoint.adapters import Base
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.checkpoint.run import Lock, Run
from kiara_cli.core.data.batches import Batch
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.data.pairs import PairBatcher
from kiara_cli.core.eval.lengths import Lengths, byte_lengths
from kiara_cli.core.loss import Objective, Preference, to_score
from kiara_cli.core.model.lora import adapter_weights
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.adaptive import Threads
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.train.average import Average
from kiara_cli.core.train.feed import Feed
from kiara_cli.core.train.plan import Plan
from kiara_cli.core.train.preference import batcher_of, preference_of
from kiara_cli.core.train.progress import Progress, random_state

if TYPE_CHECKING:
    from kiara_cli.core.hooks.training import Hooks

PATIENCE = 1.0  # seconds that other programs use the cores before threads change, and with them a sum's last bits


@dataclass
class Training:
    """The plan, which stays as it is, and what each step changes."""

    plan: Plan
    model: Transformer
    optimizer: torch.optim.Optimizer
    average: Average | None
    run: Run
    lock: Lock  # this process's claim on the run
    progress: Progress
    base: Base | None = None  # of an adapter: the checkpoint that it belongs to
    hooks: Hooks | None = None  # what the config's hooks do, where it has some
    preferred: list[Tensor] = field(default_factory=list)  # sums over pairs since the last record
    metrics: dict[str, Any] = field(default_factory=dict)  # the newest, as checkpoints carry them

    @property
    def config(self) -> Config:
        return self.plan.config

    @property
    def runtime(self) -> Runtime:
        return self.plan.runtime

    @property
    def data(self) -> Prepared:
        return self.plan.data

    @cached_property
    def threads(self) -> Threads:
        return Threads.of(self.runtime, PATIENCE)

    @property
    def runtime_now(self) -> Runtime:
        """The runtime with the threads there are now, for what is done between two updates."""
        return dataclasses.replace(self.runtime, threads=self.threads.count, adaptive=False)

    @cached_property
    def feed(self) -> Feed:
        return Feed(self.plan.batcher, self.config.train.accumulation, self.runtime.device)

    @cached_property
    def byte_lengths(self) -> Lengths:
        return byte_lengths(self.data.tokenizer, self.data.val, self.data.meta.val_bytes)

    @cached_property
    def objective(self) -> Objective:
        train = self.config.train
        return Objective(train.z_loss, train.label_smoothing, train.loss_chunk)

    @cached_property
    def preference(self) -> Preference | None:
        """The objective in the place of the other where pairs are learned."""
        return preference_of(self.config.train)

    @cached_property
    def pairs(self) -> dict[str, PairBatcher]:
        """Of pairs: both splits."""
        if not isinstance(self.plan.batcher, PairBatcher):
            return {}
        return {"train": self.plan.batcher, "val": batcher_of(self.config, self.data, held_out=True)}

    def score(self, states: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the sum to minimise of a piece of a batch, and the sum that is shown. states (B, T, D)."""
        if self.preference is None:
            return self.objective(*to_score(self.model, states, batch))
        loss, sums = self.preference(states, self.model.unembed, batch)
        self.preferred.append(torch.cat((sums, sums.new_tensor([batch.target_count]))))
        return loss, sums[0]

    def logged(self) -> dict[str, float]:
        """Return what else is logged of the updates since the last time."""
        found = self.hooks.logged() if self.hooks is not None else {}
        if self.preferred:
            _, right, ahead, pairs = torch.stack(self.preferred).sum(0).tolist()
            self.preferred.clear()
            found = {**found, "reward_accuracy": right / max(1, pairs), "reward_margin": ahead / max(1, pairs)}
        return found

    @cached_property
    def weights(self) -> list[nn.Parameter]:
        """The parameters that are trained, listed once: small models take a step in less time than ten listings."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def checkpoint(self, metrics: Mapping[str, Any], resumable: bool) -> Checkpoint:
        """Collect what a checkpoint holds; with `resumable`, the optimizer and progress too."""
        self.progress.random = random_state(self.runtime.device)
        self.progress.hooks = self.hooks.state() if self.hooks is not None else {}
        self.progress.average = self.average.state() if self.average is not None else {}
        weights = files.weights_of(self.model) if self.base is None else adapter_weights(self.model)
        return Checkpoint(
            model=weights,
            config=config_load.to_mapping(self.config),
            tokenizer=self.data.tokenizer.state(),
            metrics=dict(metrics),
            data={
                "folder": str(self.data.folder),
                "hash": self.data.meta.hash,
                "tokenizer_hash": self.data.meta.tokenizer_hash,
                "name": self.data.meta.name,
                "conversations": self.data.meta.train_conversations,
                "parts": [part.record for part in self.plan.parts],
            },
            base=None if self.base is None else self.base.hash,
            adapter=None if self.base is None else self.base.about(self.config.train.lora, weights),
            optimizer=self.optimizer.state_dict() if resumable else None,
            progress=dataclasses.asdict(self.progress) if resumable else None,
        )
