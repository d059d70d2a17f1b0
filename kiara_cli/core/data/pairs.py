"""Pairs of replies to batches: the preferred one and the other in two rows that lie together.

In: ids in which conversations come in pairs: one that is preferred, then the other. Out: batches whose rows 2k hold
preferred conversations and whose rows 2k + 1 the others, with the same number of segment for both of a pair; so each
has a whole row's room. Pairs with a side that is longer than a row are left out: it would lose the end of its reply.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kiara_cli.core.data.batches import Batch, epoch_key, permute, positions
from kiara_cli.core.data.packing import PackedBatcher, Rows, pack
from kiara_cli.core.data.segments import Contents, find_segments
from kiara_cli.core.data.shards import Tokens


@dataclass(frozen=True)
class PairBatcher:
    """Pack pairs into double rows of at most `context_length` + 1 ids; shuffle the double rows of each epoch anew."""

    tokens: Tokens
    specials: Mapping[str, int]
    context_length: int  # T
    batch_size: int  # rows of a batch; of an odd number one less, at least 2
    seed: int

    @cached_property
    def inner(self) -> PackedBatcher:
        return PackedBatcher(self.tokens, self.specials, self.context_length, self.batch_size, self.seed)

    @property
    def contents(self) -> Contents:
        return self.inner.contents

    @cached_property
    def count(self) -> int:
        """How many pairs there are."""
        return len(self.inner.segments.lengths) // 2

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """What a reference model gives both sides of each pair, (pairs, 2) in nats; to be filled in."""
        return np.zeros((self.count, 2), dtype=np.float32)

    @cached_property
    def packed(self) -> Rows:
        """Which pairs share a double row."""
        found, room = self.inner.segments, self.context_length + 1
        lengths, targets = found.lengths.reshape(-1, 2).max(axis=1), found.targets.reshape(-1, 2).min(axis=1)
        fits = np.flatnonzero((lengths < room) & (targets > 0)).astype(np.int32)
        rows = pack(lengths[fits].astype(np.int32), room)
        return Rows(fits[rows.order], rows.ends)

    @property
    def left_out(self) -> int:
        return self.count - len(self.packed.order)

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return 2 * len(self.packed)

    @property
    def places(self) -> int:
        """Double rows of a batch."""
        return max(1, self.batch_size // 2)

    def batch(self, step: int) -> Batch:
        """Return batch number `step`; its targets are counted in pairs."""
        return self.at(positions(step, self.places))

    def targets(self, step: int) -> int:
        """Count the pairs of a batch."""
        return self.targets_at(positions(step, self.places))

    def at(self, places: NDArray[np.int64]) -> Batch:
        """Return the double rows of these numbers, counted over all epochs."""
        return self._gather(self._drawn(places))

    def targets_at(self, places: NDArray[np.int64]) -> int:
        """Count the pairs in the double rows of these numbers."""
        return sum(map(len, self._drawn(places)))

    def in_order(self) -> Iterator[tuple[Batch, list[NDArray[np.int32]]]]:
        """Yield every pair once: batches, and which pairs the double rows of each hold."""
        for first in range(0, len(self.packed), self.places):
            rows = [self.packed[row] for row in range(first, min(first + self.places, len(self.packed)))]
            yield self._gather(rows), rows

    def _drawn(self, places: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        found: list[NDArray[np.int32]] = []
        size = len(self.packed)
        for epoch in np.unique(places // size):
            rows = permute(places[places // size == epoch] % size, size, epoch_key(self.seed, int(epoch)))
            found += [self.packed[row] for row in rows.tolist()]
        return found

    def _gather(self, rows: list[NDArray[np.int32]]) -> Batch:
        batch = self.inner.gather([2 * pairs + side for pairs in rows for side in (0, 1)])
        scores = np.full((2 * len(rows), max(map(len, rows))), np.nan, dtype=np.float32)
        for number, pairs in enumerate(rows):
            scores[2 * number : 2 * number + 2, : len(pairs)] = self.scores[pairs].T
        return dataclasses.replace(batch, scores=torch.from_numpy(scores), target_count=sum(map(len, rows)))


def preferred(tokens: Tokens, specials: Mapping[str, int]) -> NDArray[Any]:
    """Return the ids of the preferred conversations alone, of a split that holds pairs."""
    found = find_segments(tokens, specials, len(tokens) + 1)
    ends = np.append(found.starts[1:], len(tokens))
    kept = [tokens[start:end] for start, end in zip(found.starts[::2].tolist(), ends[::2].tolist(), strict=True)]
    return np.concatenate(kept)
