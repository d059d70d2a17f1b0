"""What a hook is told: where it is, at which step, and how strongly it is to act.

`At` is for forward and backward hooks, `UpdateContext` for update hooks, `LossContext` for auxiliary losses.
B batch, T time, D width, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from kiara_cli.core.data.batches import Batch
from kiara_cli.core.hooks.select import Select
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.protocol import Tokenizer

Log = Callable[[str, "Tensor | float"], None]  # name and number: metrics.jsonl gets the mean since its last record


def generator(device: torch.device, *about: Any) -> torch.Generator:
    """Return a generator that draws the same for the same `about`: nothing has to be stored for a resume."""
    digest = hashlib.sha256(repr(about).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))


class Values(Protocol):
    """Where a hook can get the values of another forward pass from: `Attached`."""

    def values(self, ids: Tensor, names: Sequence[str], model: Transformer | None = None) -> dict[str, Tensor]:
        """Return what passes points of the model without its hooks, or of another one, for ids (B, T)."""


@dataclass(frozen=True)
class At:
    """Where a forward or backward hook is called."""

    hook: str  # the hook's name in the config
    point: str  # such as blocks.3.attention.heads
    axes: str  # of the tensor there, a letter an axis: see model/points.py
    select: Select  # heads, positions, channels of the config
    model: Transformer
    step: int  # the update being made, from 1, as in metrics.jsonl; 0 outside a training
    strength: float  # of the ramp, above 0 to 1
    training: bool  # False in evaluation and generation
    again: bool  # the forward pass is computed a second time (train.recompute): draw and record nothing anew
    start: int  # the position of the first row, where a cache holds those before it
    seed: int
    number: int  # of the forward pass in this step, from 0
    log: Log = field(repr=False)
    attached: Values = field(repr=False)

    def put(self, x: Tensor, value: Tensor | float) -> Tensor:
        """Return x with `value` where the config selects, all of it by `strength`.

        The value is broadcast to x. What is masked in attention scores stays so.
        """
        new = torch.as_tensor(value, dtype=x.dtype, device=x.device).expand_as(x)
        mask = self.select.mask(x, self.axes, self.start)
        if self.axes.endswith("S"):
            seen = x != float("-inf")
            x, mask = x.masked_fill(~seen, 0.0), seen if mask is None else mask & seen
            new = torch.where(mask, new, 0.0)
        if self.strength < 1:
            new = torch.lerp(x, new, self.strength)
        out = new if mask is None else torch.where(mask, new, x)
        return out.masked_fill(~seen, float("-inf")) if self.axes.endswith("S") else out

    def generator(self, device: torch.device) -> torch.Generator:
        """Return a generator of this place alone: the same at every try of this step."""
        return generator(device, self.seed, self.step, self.number, self.hook, self.point)


@dataclass(frozen=True)
class Setting:
    """What a class of a hook gets, once, by its method `prepare(setting)`, if it has one."""

    points: tuple[str, ...]  # where it acts, or what it reads
    model: Transformer
    tokenizer: Tokenizer
    runtime: Runtime


@dataclass(frozen=True)
class UpdateContext:
    """What an update hook is told. Gradients are unscaled and finite, and not clipped yet in `gradients`."""

    hook: str  # the hook's name in the config
    step: int  # the update being made, from 1
    total: int  # updates of the whole run
    lr: float
    strength: float
    optimizer: torch.optim.Optimizer
    model: Transformer
    seed: int
    log: Log = field(repr=False)


@dataclass
class LossContext:
    """What an auxiliary loss is told, for one piece of a batch."""

    hook: str
    step: int
    total: int
    strength: float
    model: Transformer
    batch: Batch
    states: Tensor  # (B, T, D), what the head sees
    points: Mapping[str, Tensor]  # the values at the points that it reads, by name; their gradients flow
    seed: int
    log: Log = field(repr=False)
    known_logits: Tensor | None = None
    chunk: int | None = None  # positions to score at a time: train.loss_chunk

    def logits(self) -> Tensor:
        """Return the logits of all positions, (B, T, V), as the head makes them; computed once for all losses."""
        if self.known_logits is None:
            self.known_logits = self.model.head(self.states)
        return self.known_logits
