"""Several data folders learned from together: each row of a batch comes from one of them.

In: batchers and the share of rows that each gives. Out: one batcher. Which row comes from where is a pure function of
its number, evenly spread; each part goes through its own epochs in its own order, so that a small part is repeated
while of a large one ever new rows are drawn.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from kiara_cli.config.folders import as_path
from kiara_cli.config.schema import DataConfig
from kiara_cli.core.data.batches import Batch, Batcher, positions
from kiara_cli.core.data.folders import Prepared
from kiara_cli.errors import KiaraError

MARK = "@"  # between a source and its weight


@dataclass(frozen=True)
class Part:
    """A data folder that is learned from beside the run's own: `weight` times an epoch, or as a share of all rows."""

    data: Prepared
    weight: float = 1.0
    share: float | None = None  # of replay

    @property
    def record(self) -> dict[str, object]:
        """What a checkpoint keeps of it."""
        return {
            "folder": str(self.data.folder), "hash": self.data.meta.hash, "weight": self.weight, "share": self.share,
        }  # fmt: skip


def weighted(text: str) -> tuple[str, float]:
    """Read `PATH` or `PATH@WEIGHT`. Raises KiaraError for a weight that is none."""
    path, mark, number = text.rpartition(MARK)
    if not mark or os.path.exists(as_path(text)):
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        return text, 1.0
    if not 0 < weight < float("inf"):
        raise KiaraError(f"data.sources: {text} has the weight {number}", "give one above 0", key="data.sources")
    return path, weight


def paths_of(data: DataConfig) -> list[str]:
    """Return the source and those beside it, without their weights."""
    return [data.source, *(weighted(text)[0] for text in data.sources)]


def apart(data: DataConfig) -> list[tuple[str, float]]:
    """Return the sources that get data folders of their own, with their weights: none where all count once."""
    given = [weighted(text) for text in data.sources]
    return given if any(weight != 1 for _, weight in given) else []


def own_sources(data: DataConfig) -> DataConfig:
    """Return what the run's own data folder is made of."""
    return dataclasses.replace(data, sources=()) if apart(data) else data


@dataclass(frozen=True)
class MixedBatcher:
    """Rows of several batchers, (share of all rows, batcher) each; the first is the run's own."""

    parts: Sequence[tuple[float, Batcher]]

    @property
    def context_length(self) -> int:
        return self.parts[0][1].context_length

    @property
    def batch_size(self) -> int:
        return self.parts[0][1].batch_size

    @cached_property
    def rows(self) -> int:
        """Rows in which the run's own data is seen once."""
        share, own = self.parts[0]
        return max(1, round(own.rows / share))

    @property
    def places(self) -> int:
        return self.parts[0][1].places

    def batch(self, step: int) -> Batch:
        """Return batch number `step`."""
        return self.at(positions(step, self.places))

    def targets(self, step: int) -> int:
        """Count the targets of a batch."""
        return self.targets_at(positions(step, self.places))

    def at(self, places: NDArray[np.int64]) -> Batch:
        """Return the rows of these numbers, those of a part together."""
        found = [batcher.at(rows) for batcher, rows in self._shared_out(places)]
        inputs, targets = (torch.cat([getattr(batch, name) for batch in found]) for name in ("inputs", "targets"))
        segments = [batch.segments for batch in found if batch.segments is not None]
        return Batch.of(inputs, targets, torch.cat(segments) if segments else None)

    def targets_at(self, places: NDArray[np.int64]) -> int:
        """Count the targets of the rows of these numbers."""
        return sum(batcher.targets_at(rows) for batcher, rows in self._shared_out(places))

    def _shared_out(self, places: NDArray[np.int64]) -> Iterator[tuple[Batcher, NDArray[np.int64]]]:
        """Yield for each part that has some its rows. Of n rows a part with share s has about s × n, never one more
        or less: the first floor(s × n) of its own order."""
        left, rest = 1.0, places
        for number, (share, batcher) in enumerate(self.parts):
            last = number == len(self.parts) - 1
            ratio = 1.0 if last else share / left
            before, after = np.floor(rest * ratio).astype(np.int64), np.floor((rest + 1) * ratio).astype(np.int64)
            mine = np.full(len(rest), True) if last else after > before
            if mine.any():
                yield batcher, (rest if last else before)[mine]
            rest, left = (rest - before)[~mine], left - share


def mixed(own: Batcher, others: Sequence[tuple[Part, Batcher]]) -> Batcher:
    """Put batchers together as their parts say: by weight, and of what there is then a share for replay."""
    if not others:
        return own
    rows = [own.rows, *(part.weight * batcher.rows for part, batcher in others if part.share is None)]
    replayed = sum(part.share for part, _ in others if part.share is not None)
    shares = [(1 - replayed) * count / sum(rows) for count in rows]
    by_weight = [batcher for part, batcher in others if part.share is None]
    replays = [(part.share, batcher) for part, batcher in others if part.share is not None]
    return MixedBatcher([*zip(shares, [own, *by_weight], strict=True), *replays])
