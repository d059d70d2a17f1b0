"""What a training costs: parameters, memory, operations, time, energy, money, each with where it comes from.

In: a settled config, what is known of the data, and a target. Out: `Estimate`: figures with their basis and the
command that checks them. `kiara plan`, `kiara train --dry-run` and the start of a run all show this.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from functools import cached_property

from kiara_cli.config.schema import Config
from kiara_cli.core.lab.planning.cluster import Cluster, Strategy
from kiara_cli.core.lab.planning.memory import Counted, Rows, counted
from kiara_cli.core.lab.planning.speed import Seconds, seconds
from kiara_cli.core.lab.planning.target import Target
from kiara_cli.core.model.count import Count, count
from kiara_cli.core.train.plan import trained_parameters, training_flops

COUNTED = "counted"
STEPS = "kiara train train.max_steps=20"

UNEVEN = 1.8  # times as much is kept where the number of scored positions changes from batch to batch (fitted)


@dataclass(frozen=True)
class Facts:
    """What is known of the data and of how long the training is."""

    data: str  # in words
    steps: int
    limit: str  # the setting that ends it
    tokens: int | None  # of the training split; None: not known
    rows: Rows = field(default_factory=Rows)
    assumed: str | None = None  # what was assumed for want of data


@dataclass(frozen=True)
class Figure:
    """One number: what it is, its unit (for showing), where it comes from and what checks it."""

    name: str
    value: float | int | str | None
    unit: str
    basis: str
    check: str = ""


@dataclass(frozen=True)
class Estimate:
    """A training on a target."""

    config: Config  # settled
    facts: Facts
    target: Target
    step: float | None = None  # measured seconds of an update, in the place of the estimated ones

    @cached_property
    def own(self) -> Config:
        """The config of one device: its share of a batch, in its precision."""
        train, target = self.config.train, self.target
        accumulation, batch = train.accumulation, train.batch_size
        if target.devices > 1:
            rows = math.ceil(batch * accumulation / target.devices)  # of an update, for each device
            batch = min(batch, rows)
            accumulation = math.ceil(rows / batch)
        runtime = dataclasses.replace(self.config.runtime, device=target.kind, dtype=target.dtype)  # type: ignore[arg-type]
        train = dataclasses.replace(train, batch_size=batch, accumulation=accumulation)
        return dataclasses.replace(self.config, train=train, runtime=runtime)

    @cached_property
    def count(self) -> Count:
        return count(self.config.model)

    @cached_property
    def trained(self) -> int:
        return trained_parameters(self.config)

    @cached_property
    def counted(self) -> Counted:
        return counted(self.own, self.facts.rows, self.target.fused)

    @property
    def flops_per_token(self) -> int:
        """Of training."""
        return training_flops(self.config)

    @property
    def tokens_per_step(self) -> int:
        train = self.config.train
        return train.batch_size * train.accumulation * self.config.model.context_length

    @property
    def tokens(self) -> int:
        return self.facts.steps * self.tokens_per_step

    @cached_property
    def strategy(self) -> Strategy:
        """DDP where it fits, else FSDP, unless runtime.parallel says which."""
        wanted = getattr(self.config.runtime, "parallel", "auto")
        if wanted in ("ddp", "fsdp"):
            return "fsdp" if wanted == "fsdp" else "ddp"
        available = self.target.available
        whole = sum(self._memory("ddp").values())
        return "fsdp" if self.target.devices > 1 and available is not None and whole > available else "ddp"

    @cached_property
    def memory(self) -> dict[str, int]:
        """Bytes by part at the highest point, of each device."""
        return self._memory(self.strategy)

    def _memory(self, strategy: Strategy) -> dict[str, int]:
        parts = dict(self.counted.parts)
        if strategy == "fsdp":
            # a shard of everything, and two blocks in full: the one at work and the one that comes next
            blocks = self.count.parts["attention"] + self.count.parts["feed-forward"]
            largest = max(blocks // self.config.model.n_layers, self.count.parts["token embeddings"])
            for part in ("weights", "gradients", "optimizer", "average"):
                parts[part] = parts.get(part, 0) // self.target.devices
            parts["gathered"] = 2 * 4 * largest
        if strategy == "ddp" and self.target.devices > 1:
            parts["buckets"] = 4 * self.trained  # DDP's own copy of the gradients
        learning, measuring = self.counted.small
        kept = self.target.kept * (UNEVEN if self.facts.rows.scored < 1 and self.target.kind == "cpu" else 1)
        parts["allocator"] = round(kept * (learning + measuring))
        parts["process"] = self.target.process
        return {part: size for part, size in parts.items() if size}

    @property
    def peak(self) -> int:
        return sum(self.memory.values())

    @property
    def missing(self) -> float:
        """Bytes by which it does not fit; 0 where it does or nobody knows."""
        available = self.target.available
        return 0.0 if available is None else max(0.0, self.peak - available)

    @property
    def cluster(self) -> Cluster:
        target = self.target
        return Cluster(target.devices, target.together, target.link, target.network, self.strategy)

    @cached_property
    def seconds(self) -> Seconds:
        """Of an update."""
        works = self.counted
        found = seconds(self.target.speed, (works.piece, works.pieces), (works.update, 1))
        talking = self.cluster.seconds(self.count.parameters, self.trained, self.config.model.n_layers, works.pieces)
        if self.strategy == "fsdp":  # each updates its own shard
            alone = seconds(self.target.speed, (works.update, 1))
            found = dataclasses.replace(found, total=found.total - alone.total * (1 - 1 / self.target.devices))
        total = self.step if self.step is not None else found.total + talking
        return dataclasses.replace(found, total=total, communication=talking)

    @property
    def time(self) -> float:
        """Seconds of all updates; evaluations and saving come on top."""
        return self.facts.steps * self.seconds.total

    @property
    def energy(self) -> float | None:
        """Joules."""
        watts = self.target.watts
        return None if watts is None else watts * self.target.devices * self.time

    @property
    def cost(self) -> float | None:
        """Dollars."""
        price = self.target.price
        return None if price is None else price * self.target.devices * self.time / 3600
