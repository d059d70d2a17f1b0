"""Documents and conversations to batches: whole segments packed into rows, each seeing only itself.

In: ids that hold at least one conversation. Out: for any step the batch of that step, whose `segments` keep what
shares a row apart. Everything is a numpy array: ten million conversations take less than a gigabyte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from kiara_cli.core.data.batches import IGNORE, Batch, epoch_key, permute, positions
from kiara_cli.core.data.segments import Contents, Segments, find_segments
from kiara_cli.core.data.shards import Tokens
from kiara_cli.core.tokenizer.chat_format import target_mask
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT


@dataclass(frozen=True)
class Rows:
    """Which segments share a row: `order` (n,) numbers them row by row, `ends` (rows,) says where each row ends."""

    order: NDArray[np.int32]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        """Return the segments of a row, the longest first."""
        return self.order[self.ends[row - 1] if row else 0 : self.ends[row]]


@dataclass(frozen=True)
class PackedBatcher:
    """Pack segments into rows of at most `context_length` + 1 ids; shuffle the rows of each epoch anew."""

    tokens: Tokens
    specials: Mapping[str, int]
    context_length: int  # T
    batch_size: int  # B
    seed: int
    loss_on: str = "assistant"  # or all
    primer: bool = False  # begin with the short conversations, once, in rows of their own
    longest: int | None = None  # ids of a segment; None: as many as fit into a row

    @cached_property
    def segments(self) -> Segments:
        longest = self.longest or self.context_length + 1
        return find_segments(self.tokens, self.specials, longest, self.loss_on)

    @property
    def contents(self) -> Contents:
        return self.segments.contents

    @cached_property
    def packed(self) -> Rows:
        """The rows of an epoch, of all that has a target."""
        return self._pack(self.segments.targets > 0)

    @cached_property
    def first(self) -> Rows:
        """Rows that come once before all others, of conversations no longer than half a row; none without `primer`.

        Where there is little to look at, a model finds out in a few hundred steps how to look back at all.
        """
        found = self.segments
        short = found.lengths <= (self.context_length + 1) // 2
        return self._pack(short & found.conversation & (found.targets > 0) & self.primer)

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return len(self.packed)

    @property
    def places(self) -> int:
        """Rows of a batch."""
        return self.batch_size

    def batch(self, step: int) -> Batch:
        """Return batch number `step`."""
        return self.at(positions(step, self.places))

    def targets(self, step: int) -> int:
        """Count the targets of a batch."""
        return self.targets_at(positions(step, self.places))

    def at(self, places: NDArray[np.int64]) -> Batch:
        """Return the rows of these numbers, counted over all epochs."""
        return self.gather(self._drawn(places))

    def targets_at(self, places: NDArray[np.int64]) -> int:
        """Count the targets of the rows of these numbers."""
        return int(self.segments.targets[np.concatenate(self._drawn(places))].sum(dtype=np.int64))

    def in_order(self, conversations: bool) -> Iterator[Batch]:
        """Yield every conversation, or every document, that fits into a row, once."""
        found = self.segments
        fits = (found.targets > 0) & (found.lengths <= self.context_length + 1)
        rows = self._pack(fits & (found.conversation == conversations))
        for first in range(0, len(rows), self.batch_size):
            yield self.gather([rows[row] for row in range(first, min(first + self.batch_size, len(rows)))])

    def _pack(self, wanted: NDArray[np.bool_]) -> Rows:
        chosen = np.flatnonzero(wanted).astype(np.int32)
        rows = pack(self.segments.lengths[chosen], self.context_length + 1)
        return Rows(chosen[rows.order], rows.ends)

    def _drawn(self, position: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        """Return the segments of the rows number `position`, counted over all epochs."""
        first = len(self.first)
        begun = permute(position[position < first], first, epoch_key(self.seed, -1))
        drawn = [self.first[row] for row in begun.tolist()]
        position = position[position >= first] - first
        for epoch in np.unique(position // self.rows):
            place = position[position // self.rows == epoch] % self.rows
            drawn += [
                self.packed[row] for row in permute(place, self.rows, epoch_key(self.seed, int(epoch))).tolist()
            ]
        return drawn

    def gather(self, rows: Sequence[NDArray[np.int32]]) -> Batch:
        """Make a batch of rows, given the segments of each. What is left of a row is a segment without targets."""
        found, shape = self.segments, (len(rows), self.context_length + 1)
        block = np.full(shape, self.specials[END_OF_TEXT], dtype=np.int64)
        segments, learned = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
        for row, members in enumerate(rows):
            lengths = found.lengths[members]
            number = np.repeat(np.arange(len(members)), lengths)
            within = np.arange(len(number)) - (np.cumsum(lengths) - lengths)[number]
            ids = self.tokens[found.starts[members][number] + within].astype(np.int64)
            block[row, : len(ids)] = ids
            segments[row] = len(members)
            segments[row, : len(ids)] = number
            learned[row, : len(ids)] = within > 0
            if self.loss_on == "assistant":
                learned[row, : len(ids)] &= ~found.conversation[members][number] | target_mask(ids, self.specials)
        targets = np.where(learned, block, IGNORE)[:, 1:].copy()
        return Batch.of(*map(torch.from_numpy, (block[:, :-1].copy(), targets, segments[:, :-1].copy())))


def pack(lengths: NDArray[np.int32], room: int) -> Rows:
    """Fill rows of `room` ids best fit, longest first (Johnson, 1973): they come out nearly full.

    Segments of one length are placed together: each goes into the row with the least space that takes it, which then
    has the least space for the next, until it takes no more.
    """
    order = np.argsort((room - lengths).astype(np.min_scalar_type(room)), kind="stable").astype(np.int32)
    row_of = np.empty(len(order), dtype=np.int32)
    spaces = _Spaces(room)
    placed = 0
    for length, count in reversed(list(enumerate(np.bincount(lengths).tolist()))):
        until = placed + count
        while placed < until:
            space, rows = spaces.take(length, until - placed)
            each = space // length
            taken = min(until - placed, len(rows) * each)
            row_of[placed : placed + taken] = np.repeat(rows, each)[:taken]
            placed += taken
            whole = taken // each
            spaces.put(rows[:whole], space - each * length)
            spaces.put(rows[whole:], space - taken % each * length)
    return Rows(order[np.argsort(row_of, kind="stable")], np.cumsum(np.bincount(row_of, minlength=spaces.rows)))


class _Spaces:
    """Rows by the space that they have left."""

    def __init__(self, room: int) -> None:
        self.rows = 0  # begun so far
        self._room = room
        self._by_space: dict[int, list[NDArray[np.int32]]] = {}

    def take(self, length: int, count: int) -> tuple[int, NDArray[np.int32]]:
        """Take rows for at most `count` segments of a length: of the least space that is enough, or empty ones."""
        space = min((space for space in self._by_space if space >= length), default=self._room)
        needed = -(-count // (space // length))
        if space not in self._by_space:
            self.rows += needed
            return space, np.arange(self.rows - needed, self.rows, dtype=np.int32)
        rows = self._by_space[space].pop()[::-1]  # the last one first
        if not self._by_space[space]:
            del self._by_space[space]
        self.put(rows[needed:][::-1], space)
        return space, rows[:needed]

    def put(self, rows: NDArray[np.int32], space: int) -> None:
        if len(rows):
            self._by_space.setdefault(space, []).append(rows)
