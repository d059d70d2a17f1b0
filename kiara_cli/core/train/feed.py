"""The batches of an update, on the device: drawn on another thread while the model works on those before.

In: a batcher and a position in its order. Out: batches, and how many targets they have together. On a CPU a large
batch comes in pieces, whose gradients add up to its own.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from kiara_cli.core.data.batches import Batch, Batcher, share
from kiara_cli.core.runtime.parallel import ALONE, World

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

    Of a `world` of processes this one takes its share of the rows; targets are counted over all of them. Each has the
    same number of pieces: a process with a row less than another gets one from which nothing is learned.
    """

    def __init__(self, batcher: Batcher, accumulation: int, device: torch.device, world: World = ALONE) -> None:
        self._batcher, self._accumulation, self._device, self._world = batcher, accumulation, device, world
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
        at_once, world = self._batcher.places, self._world
        places = np.arange(position * at_once, (position + self._accumulation) * at_once)
        mine, most = share(places, world.rank, world.size), -(-len(places) // world.size)
        batches = [self._batcher.at(mine[first : first + at_once]) for first in range(0, len(mine), at_once)]
        if len(mine) < most:
            blank = len(mine) % at_once == 0  # the others have one batch more
            batches[-1 + blank :] = [batches[-1].with_blank(alone=blank)]
        rows = rows_at_once(self._batcher.batch_size, self._batcher.context_length, self._device.type)
        parts = [part for batch in batches for part in batch.split(rows)]
        if self._device.type == "cuda":  # pinned, so that nobody waits for the copy
            parts = [part.pinned() for part in parts]
        return Batches(parts, max(1, self._batcher.targets_at(places)))
