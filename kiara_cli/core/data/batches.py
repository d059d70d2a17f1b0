"""What a model learns from at a time, and in which order: the one `Batch` of training, evaluation and calibration.

In: a step, or the numbers of some rows. Out: a batch. The order is a pure function of the seed: there is no state to
save, resume asks for the next step, and any rows can be asked for at any time, by any of several processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORE = -100  # a target that no loss is taken on (torch's own default)
ROUNDS = 4  # of the Feistel network below; four make a pseudo-random permutation (Luby and Rackoff, 1988)


@dataclass(frozen=True)
class Batch:
    """Rows of ids and what is to be predicted at each position. B rows, T positions."""

    inputs: Tensor  # (B, T) int64
    targets: Tensor  # (B, T) int64; IGNORE where nothing is predicted
    segments: Tensor | None  # (B, T) int64: positions of another segment are not seen; None: each row is one segment
    target_count: int  # targets that are not IGNORE; of pairs: how many pairs
    scores: Tensor | None = None  # (B, S) of pairs: what a reference model gives each segment; NaN: there is none

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor, segments: Tensor | None = None) -> Batch:
        """Make a batch, counting its targets."""
        return cls(inputs, targets, segments, int((targets != IGNORE).sum()))

    def to(self, device: torch.device) -> Batch:
        """Return it on a device, without waiting for the copy."""
        inputs, targets = self.inputs.to(device, non_blocking=True), self.targets.to(device, non_blocking=True)
        segments = None if self.segments is None else self.segments.to(device, non_blocking=True)
        scores = None if self.scores is None else self.scores.to(device, non_blocking=True)
        return replace(self, inputs=inputs, targets=targets, segments=segments, scores=scores)

    def pinned(self) -> Batch:
        """Return it in pinned memory, from which a GPU copies while the CPU goes on."""
        segments = None if self.segments is None else self.segments.pin_memory()
        return replace(self, inputs=self.inputs.pin_memory(), targets=self.targets.pin_memory(), segments=segments)

    def split(self, rows: int) -> Iterator[Batch]:
        """Yield pieces of at most so many rows; of pairs, whose sides lie in two rows, of an even number."""
        rows = rows if self.scores is None else max(2, rows - rows % 2)
        for first in range(0, len(self.inputs), rows):
            part = slice(first, first + rows)
            segments = None if self.segments is None else self.segments[part]
            piece = Batch.of(self.inputs[part], self.targets[part], segments)
            if self.scores is not None:
                pairs = int((~self.scores[part][::2].isnan()).sum())
                piece = replace(piece, scores=self.scores[part], target_count=pairs)
            yield piece

    def with_blank(self, alone: bool = False) -> Batch:
        """Return it with one more row, of pairs two, from which nothing is learned; or with `alone` that one only."""
        last, new = slice(-1 if self.scores is None else -2, None), slice(len(self.inputs) if alone else 0, None)
        targets = torch.cat((self.targets, torch.full_like(self.targets[last], IGNORE)))[new]
        inputs = torch.cat((self.inputs, self.inputs[last]))[new]
        segments = None if self.segments is None else torch.cat((self.segments, self.segments[last]))[new]
        if self.scores is None:
            return Batch.of(inputs, targets, segments)
        scores = torch.cat((self.scores, torch.full_like(self.scores[last], torch.nan)))[new]
        return Batch(inputs, targets, segments, 0 if alone else self.target_count, scores)


class Batcher(Protocol):
    """A training split, cut into rows that are batched in an order."""

    @property
    def context_length(self) -> int:
        """Positions of a row, T."""

    @property
    def batch_size(self) -> int:
        """Rows of a batch, B."""

    @property
    def rows(self) -> int:
        """Rows of an epoch."""

    @property
    def places(self) -> int:
        """Numbers that a batch takes: a row each, of pairs two."""

    def batch(self, step: int) -> Batch:
        """Return batch number `step`."""

    def targets(self, step: int) -> int:
        """Count the targets of a batch."""

    def at(self, places: NDArray[np.int64]) -> Batch:
        """Return the rows of these numbers, counted over all epochs."""

    def targets_at(self, places: NDArray[np.int64]) -> int:
        """Count the targets of the rows of these numbers."""


def positions(step: int, places: int) -> NDArray[np.int64]:
    """Return the numbers of a batch's rows, counted over all epochs."""
    return np.arange(step * places, (step + 1) * places)


def share(places: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """Return those of some rows that one of `world` processes takes: all together take each once, nearly as many."""
    first, last = (len(places) * number // world for number in (rank, rank + 1))
    return places[first:last]


def epoch_key(seed: int, epoch: int) -> np.uint64:
    """Return the key of an epoch's order: unrelated for neighbouring seeds and epochs."""
    return np.uint64(_mix(np.uint64(seed) ^ _mix(np.uint64(epoch + 1))))


def permute(place: NDArray[np.int64], size: int, key: np.uint64) -> NDArray[np.int64]:
    """Shuffle 0 … size-1 without holding it in memory: return which number stands at each place.

    A Feistel network over the next even power of two; a result beyond `size` is sent round again, which keeps
    the map one-to-one.
    """
    half = max(1, (max(2, size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    value = place.astype(np.uint64)
    todo = np.ones(len(value), dtype=bool)
    while todo.any():
        left, right = value[todo] >> np.uint64(half), value[todo] & mask
        for index in range(ROUNDS):
            left, right = right, left ^ (_mix(right ^ key ^ np.uint64(index << 56)) & mask)
        value[todo] = left << np.uint64(half) | right
        todo = value >= size
    return value.astype(np.int64)


def _mix(value: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64] | np.uint64:
    """Scatter the bits of 64-bit integers (the finalizer of splitmix64, Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))
