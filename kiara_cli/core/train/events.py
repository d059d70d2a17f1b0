"""What happens during training, as it happens: `train` yields these, the console draws them, --json prints them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from kiara_cli.core.eval.metrics import Metrics

Status: TypeAlias = Literal["finished", "interrupted", "diverged"]


@dataclass(frozen=True)
class Stepped:
    """An update was made and is worth logging. `loss` is the mean since the last such event, in nats per token."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Evaluated:
    """The validation split was measured."""

    step: int
    metrics: Metrics
    is_best: bool


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


@dataclass(frozen=True)
class Finished:
    """Training is over. `val_loss` is the best one, `best` and `last` the checkpoints if there are any."""

    run: str
    status: Status
    step: int
    val_loss: float | None
    tokens: int
    seconds: float
    best: Path | None
    last: Path | None


Event: TypeAlias = Stepped | Evaluated | Sampled | Saved | Finished
