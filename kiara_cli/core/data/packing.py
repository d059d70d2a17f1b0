"""Conversation shards to batches: whole conversations packed into rows, each seeing only itself.

In: ids in which end-of-text opens each conversation. Out: for any step the batch of that step, with targets only
where there is something to learn and `segments` that keep conversations that share a row from seeing each other. No
row cuts a conversation unless it is longer than a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kiara_cli.core.data.batches import IGNORE, Batch, epoch_key, permute, positions
from kiara_cli.core.data.shards import Tokens
from kiara_cli.core.tokenizer.chat_format import ROLES, target_mask
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT
from kiara_cli.errors import KiaraError

CHUNK = 1 << 22  # ids looked at at a time
TALKS = 1 << 12  # conversations looked at at a time


@dataclass(frozen=True)
class PackedBatcher:
    """Pack conversations into rows of at most `context_length` + 1 tokens; shuffle rows by epoch.

    Raises KiaraError if there is nothing to learn.
    """

    tokens: Tokens
    specials: Mapping[str, int]
    context_length: int  # T
    batch_size: int  # B
    seed: int
    loss_on: str = "assistant"  # or all
    primer: bool = False  # begin with the short conversations, once, in rows of their own

    def __post_init__(self) -> None:
        if not len(self.starts):
            raise KiaraError("the training split holds no conversation", "give more data")

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each conversation begins."""
        mark = self.specials[END_OF_TEXT]
        found = [first + np.flatnonzero(ids == mark) for first, ids in self._chunks()]
        return np.concatenate([np.empty(0, dtype=np.int64), *found])

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each conversation, what does not fit into a row left off."""
        return np.minimum(np.diff(np.append(self.starts, len(self.tokens))), self.context_length + 1)

    @cached_property
    def packed(self) -> list[list[int]]:
        """Which conversations share a row."""
        return self._pack(np.arange(len(self.starts)))

    @cached_property
    def first_rows(self) -> list[list[int]]:
        """Rows that come once before all others, of conversations no longer than half a row; none without `primer`.

        Where there is little to look at, a model finds out in a few hundred steps how to look back at all.
        """
        short = np.flatnonzero(self.lengths <= (self.context_length + 1) // 2)
        return self._pack(short) if self.primer else []

    def _pack(self, talks: NDArray[np.int64]) -> list[list[int]]:
        """Fill rows best fit, longest first (Johnson, 1973): they come out nearly full."""
        rows: list[list[int]] = []
        open_rows: list[list[int]] = [[] for _ in range(self.context_length + 2)]  # by the room they have left
        for talk in talks[np.argsort(-self.lengths[talks], kind="stable")].tolist():
            length = int(self.lengths[talk])
            room = next((room for room in range(length, len(open_rows)) if open_rows[room]), None)
            if room is None:
                rows.append([])
                room, row = self.context_length + 1, len(rows) - 1
            else:
                row = open_rows[room].pop()
            rows[row].append(talk)
            open_rows[room - length].append(row)
        return rows

    @property
    def too_long(self) -> int:
        """Conversations longer than a row; they lose their ends."""
        return int((np.diff(np.append(self.starts, len(self.tokens))) > self.context_length + 1).sum())

    @cached_property
    def without_target(self) -> int:
        """Conversations in which the assistant says nothing; nothing is learned from them."""
        answered = 0
        for first in range(0, len(self.starts), TALKS):
            here = self.starts[first : first + TALKS + 1]
            ids = self.tokens[int(here[0]) : int(here[TALKS]) if len(here) > TALKS else len(self.tokens)]
            targets = here[0] + np.flatnonzero(target_mask(ids, self.specials))
            answered += len(np.unique(here[:TALKS].searchsorted(targets, side="right")))
        return len(self.starts) - answered

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return len(self.packed)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Return what one of `world` processes learns from at a step."""
        position = positions(step, self.batch_size, rank, world)
        first = len(self.first_rows)
        chosen = [
            self.first_rows[row] for row in permute(position[position < first], first, epoch_key(self.seed, -1))
        ]
        position = position[position >= first] - first
        for epoch in np.unique(position // self.rows):
            place = position[position // self.rows == epoch] % self.rows
            chosen += [self.packed[row] for row in permute(place, self.rows, epoch_key(self.seed, int(epoch)))]
        return self._gather(chosen)

    def in_order(self) -> Iterator[Batch]:
        """Yield every row once."""
        for first in range(0, self.rows, self.batch_size):
            yield self._gather(self.packed[first : first + self.batch_size])

    def _gather(self, rows: list[list[int]]) -> Batch:
        length = self.context_length + 1
        block = np.full((len(rows), length), self.specials[END_OF_TEXT], dtype=np.int64)
        counts = np.zeros((len(rows), length), dtype=bool)  # which ids are targets
        for index, row in enumerate(rows):
            ids = np.concatenate([self._ids(talk) for talk in row])
            block[index, : len(ids)] = ids
            counts[index, : len(ids)] = (
                target_mask(ids, self.specials) if self.loss_on == "assistant" else ids != self.specials[END_OF_TEXT]
            )
        segments = (block[:, :-1] == self.specials[END_OF_TEXT]).cumsum(axis=1)
        targets = np.where(counts, block, IGNORE)[:, 1:].copy()
        return Batch.of(*map(torch.from_numpy, (block[:, :-1].copy(), targets, segments)))

    def _chunks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield all ids piece by piece, with where each piece begins."""
        for first in range(0, len(self.tokens), CHUNK):
            yield first, self.tokens[first : first + CHUNK]

    def _ids(self, talk: int) -> NDArray[np.int64]:
        start = self.starts[talk]
        return np.asarray(self.tokens[start : start + self.lengths[talk]], dtype=np.int64)


def holds_conversations(tokens: Tokens, specials: Mapping[str, int]) -> bool:
    """Say whether any document among these ids is a conversation: a role's mark stands after its first mark."""
    roles, mark = [specials[name] for name in ROLES.values() if name in specials], specials.get(END_OF_TEXT)
    for first in range(0, len(tokens), CHUNK):
        ids = tokens[first : first + CHUNK + 1]
        if np.isin(ids[1:][ids[:-1] == mark], roles).any():
            return True
    return False
