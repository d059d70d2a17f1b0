"""What happens in a training, as it happens: `job.run` yields these, the console draws them, --json prints them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from kiara_cli.core.eval.metrics import Metrics
from kiara_cli.core.train.meter import Reading
from kiara_cli.core.train.plan import Plan
from kiara_cli.core.train.preference import PairMetrics

Status: TypeAlias = Literal["finished", "interrupted", "diverged"]


@dataclass(frozen=True)
class Planned:
    """The data is there and all is decided; nothing of the run has been written yet."""

    plan: Plan


@dataclass(frozen=True)
class Started:
    """The run has its folder and the model stands; the next event is of the loop."""

    run: str
    folder: Path
    step: int  # made before, by a run that is resumed
    steps: int  # to be made in all
    together: str = ""  # how many processes train, and how they share the model


@dataclass(frozen=True)
class Stepped:
    """An update was made and is worth logging. `loss` is the mean since the last such event, in nats per token."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    seconds_left: float
    reading: Reading
    memory: int  # the most bytes held so far
    hooks: Mapping[str, float] = field(default_factory=dict)  # what hooks logged: means since the last such event
    seconds: float = 0.0  # since the run began, evaluating and saving included


@dataclass(frozen=True)
class Skipped:
    """An update was not made, as its loss or gradient is not finite; the weights are as they were."""

    step: int  # that would have been made
    batch: int  # where in the order of the data
    loss: float
    grad_norm: float
    parameter: str  # the weight nearest to the loss whose gradient is not finite
    in_a_row: int


@dataclass(frozen=True)
class ThreadsChanged:
    """After this step other threads compute, which changes the last bits of sums; `stays`: they were faster."""

    step: int
    before: int
    threads: int
    stays: bool
    reason: str


@dataclass(frozen=True)
class Spiked:
    """The logged loss leapt away from what was usual."""

    step: int
    loss: float
    usual: float


@dataclass(frozen=True)
class Evaluated:
    """The validation split was measured."""

    step: int
    metrics: Metrics | PairMetrics
    is_best: bool
    seconds: float


@dataclass(frozen=True)
class Sampled:
    """The model wrote something: the prompt continued, or the reply to it."""

    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on disk."""

    step: int
    path: Path
    seconds: float


@dataclass(frozen=True)
class Finished:
    """Training is over. `val_loss` is the best one, `best` and `last` the checkpoints if there are any.

    `reason` says why, where it ended before its last step and nobody asked it to.
    """

    run: str
    folder: Path
    status: Status
    step: int
    val_loss: float | None
    tokens: int
    seconds: float
    best: Path | None
    last: Path | None
    reason: str | None = None


Event: TypeAlias = (
    Planned | Started | Stepped | Skipped | Spiked | ThreadsChanged | Evaluated | Sampled | Saved | Finished
)
