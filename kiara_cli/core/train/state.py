"""A training in progress: what the loop works on, and all that an exact resume needs.

In: a plan, and the parts built after it. Out: `Training`, and the checkpoint that holds its state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
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
from kiara_cli.core.runtime.device import Runtime, seed_everything
from kiara_cli.core.runtime.parallel import World
from kiara_cli.core.runtime.ranks import add_up, agreed
from kiara_cli.core.train.average import Average
from kiara_cli.core.train.feed import Feed
from kiara_cli.core.train.plan import Plan
from kiara_cli.core.train.preference import batcher_of, preference_of
from kiara_cli.core.train.progress import Progress, random_state
from kiara_cli.core.train.saving import Background, without_tensors
from kiara_cli.core.train.spread import add_up_on_device, is_shared_out, whole

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
    asks_to_stop: Callable[[], bool] = lambda: False  # this process
    told_to_stop: bool = False  # of several: whether one has been asked
    preferred: list[Tensor] = field(default_factory=list)  # sums over pairs since the last record
    metrics: dict[str, Any] = field(default_factory=dict)  # the newest, as checkpoints carry them
    background: Background | None = None  # of several processes: what they are writing

    @property
    def config(self) -> Config:
        return self.plan.config

    @property
    def runtime(self) -> Runtime:
        return self.plan.runtime

    @property
    def world(self) -> World:
        return self.plan.world

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
        return Feed(self.plan.batcher, self.config.train.accumulation, self.runtime.device, self.world)

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

    def begin_update(self) -> None:
        """Tell hooks which update comes, and of several processes draw dropout for it: in each another one."""
        if self.hooks is not None:
            self.hooks.begin(self.progress.step + 1)
        if self.world.size > 1:  # from what is known anyway, so that nothing of each process has to be stored
            seed_everything(hash((self.config.runtime.seed, self.progress.position, self.world.rank)) & (2**63 - 1))

    def agree(self, nats: Tensor) -> Tensor:
        """Return the sum over all processes of the loss, and how many ask to stop or could not write, (3,)."""
        if self.background is None:
            return torch.stack((nats, nats.new_zeros(()), nats.new_zeros(())))
        flags = [float(self.asks_to_stop()), float(self.background.failed)]
        return add_up_on_device(torch.cat((nats.detach().reshape(1), nats.new_tensor(flags))))

    def heed(self, stops: float, failures: float) -> None:
        """Note that a process was asked to stop; raise KiaraError, in all, where one could not write."""
        self.told_to_stop = stops > 0
        if failures and self.background is not None:
            list(self.background.finish(self))

    @property
    def stops(self) -> bool:
        """Whether this process, or any of several, was asked to stop."""
        return self.told_to_stop or (self.world.size == 1 and self.asks_to_stop())

    def blame(self) -> None:
        """Raise KiaraError, in all processes, if a hook in one made what is not finite."""
        if self.hooks is not None:
            agreed(self.world, self.hooks.blame)

    def readable(self) -> Transformer | None:
        """Return the model as generation reads it, in the process that writes; None in others, which must ask too."""
        if not is_shared_out(self.model):
            return self.model if self.world.is_first else None
        weights = whole(files.weights_of(self.model), self.world.is_first)
        if not self.world.is_first:
            return None
        return files.model_from(self.config.model, weights, "the training").to(self.runtime.device)

    def logged(self) -> dict[str, float]:
        """Return what else is logged of the updates since the last time; hooks see this process's rows alone."""
        found = self.hooks.logged() if self.hooks is not None else {}
        if self.preferred:
            sums = add_up(torch.stack(self.preferred).sum(0).cpu().double().numpy(), self.world)
            self.preferred.clear()
            _, right, ahead, pairs = sums.tolist()
            found = {**found, "reward_accuracy": right / max(1, pairs), "reward_margin": ahead / max(1, pairs)}
        return found

    @cached_property
    def weights(self) -> list[nn.Parameter]:
        """The parameters that are trained, listed once: small models take a step in less time than ten listings."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def saved_weights(self) -> Mapping[str, Tensor]:
        """Return the weights that a checkpoint holds: all, or those of the adapter."""
        return files.weights_of(self.model) if self.base is None else adapter_weights(self.model)

    def checkpoint(self, metrics: Mapping[str, Any], resumable: bool, tensors: bool = True) -> Checkpoint:
        """Collect what a checkpoint holds; with `resumable`, the optimizer and progress too; or all but tensors.

        Where weights are shared out they are put together: every process asks for it, and the first one gets them.
        """
        self.progress.random = random_state(self.runtime.device)
        self.progress.hooks = self.hooks.state() if self.hooks is not None else {}
        self.progress.average = self.average.state() if self.average is not None and tensors else {}
        weights = self.saved_weights()
        found = Checkpoint(
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
        if not tensors:
            return without_tensors(found)
        if not is_shared_out(self.model):
            return found
        parts = {
            name: whole(getattr(found, name), self.world.is_first) for name in ("model", "optimizer", "progress")
        }
        return dataclasses.replace(found, **parts)
