"""The batches of an update, on the device: drawn on another thread while the model works on those before.

In: a batcher and a position in its order. Out: batches, and how many targets they have together. On a CPU a large
batch comes in pieces, whose gradients add up to its own.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from kiara_cli.core.data.batches import Batch, Batcher

DEPTH = 2  # updates whose batches are drawn ahead
PIECE = 4096  # tokens at once on a CPU: more leave its caches (6 × 384, 64 × 256 tokens: 3.9 s a step whole, 3.5 so)


@dataclass(frozen=True)
class Batches:
    """What one update learns from. `targets` counts over all of them, in all processes, and is at least 1."""

    parts: list[Batch]
    targets: int


def rows_at_once(batch_size: int, context_length: int, device: str) -> int:
    """Return how many rows of a batch go through the model together: all, or on a CPU about PIECE tokens."""
    pieces = max(1, round(batch_size * context_length / PIECE)) if device == "cpu" else 1
    return math.ceil(batch_size / pieces)


class Feed:
    """Hand out `accumulation` batches at a time, from any position on; those after them are drawn ahead.

    Of `world` processes this one takes its own rows; targets are counted over all of them.
    """

    def __init__(
        self, batcher: Batcher, accumulation: int, device: torch.device, rank: int = 0, world: int = 1
    ) -> None:
        self._batcher, self._accumulation, self._device = batcher, accumulation, device
        self._rank, self._world = rank, world
        self._ready: dict[int, Future[Batches]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")

    def take(self, position: int) -> Batches:
        """Return the batches from number `position` on."""
        drawn = self._started(position).result()  # before more is begun: the other thread would compete with this one
        coming = range(position + self._accumulation, position + (DEPTH + 1) * self._accumulation, self._accumulation)
        for known in self._ready.keys() - set(coming):
            self._ready.pop(known).cancel()
        for next_position in coming:
            self._started(next_position)
        return Batches([part.to(self._device) for part in drawn.parts], drawn.targets)

    def close(self) -> None:
        """Stop drawing."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _started(self, position: int) -> Future[Batches]:
        """Begin to draw, unless that was done before."""
        if position not in self._ready:
            self._ready[position] = self._pool.submit(self._draw, position)
        return self._ready[position]

    def _draw(self, position: int) -> Batches:
        steps = range(position, position + self._accumulation)
        batches = [self._batcher.batch(step, self._rank, self._world) for step in steps]
        rows = rows_at_once(self._batcher.batch_size, self._batcher.context_length, self._device.type)
        parts = [part for batch in batches for part in batch.split(rows)]
        if self._device.type == "cuda":  # pinned, so that nobody waits for the copy
            parts = [part.pinned() for part in parts]
        return Batches(parts, max(1, sum(self._batcher.targets(step, self._world) for step in steps)))
