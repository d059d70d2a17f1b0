"""Ids to segments: where documents and conversations lie in a split, and how many targets each has.

In: a flat array of ids in which end-of-text opens each document. Out: `Segments`, numpy arrays: stretches of the
split that fit into a row. A document that begins with a role's mark is a conversation.

A document is learned from in full: all its ids but the first are targets, and so is the end-of-text after it. One
that is longer than a row becomes consecutive segments, each of which opens with the id that the one before ended
with. Of a conversation the replies are targets, or all; one that is longer than a row loses its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.data.shards import Tokens
from kiara_cli.core.tokenizer.chat_format import ROLES
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT
from kiara_cli.errors import KiaraError

CHUNK = 1 << 16  # ids looked at at a time


@dataclass(frozen=True)
class Contents:
    """What a split holds, and how much of it can be learned or measured."""

    documents: int = 0  # counted only where there are conversations too
    document_targets: int = 0
    conversations: int = 0
    conversation_targets: int = 0
    silent: int = 0  # conversations without a target
    too_long: int = 0  # conversations longer than a row

    def __add__(self, other: Contents) -> Contents:
        return Contents(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    @property
    def targets(self) -> int:
        return self.document_targets + self.conversation_targets

    def check(self, what: str, context: int) -> None:
        """Raise KiaraError, naming what was counted, if there is not a single target."""
        if self.targets:
            return
        if not self.conversations:
            raise KiaraError(f"{what} is too short: there is no token to predict in it", "give a longer text")
        raise KiaraError(
            f"there is no target in {what}: none of its conversations ({self.conversations:,}) has a reply within "
            f"model.context_length={context}",
            'give conversations with messages whose role is "assistant"',
        )


@dataclass(frozen=True)
class Segments:
    """Segments in the order of the split, (n,) each."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int32]  # ids, of which the first is no target
    targets: NDArray[np.int32]
    conversation: NDArray[np.bool_]
    contents: Contents


@dataclass(frozen=True)
class _Documents:
    """Neighbouring documents of any length, (n,) each: where they begin, and their ids, replies and kind."""

    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    replies: NDArray[np.int64]  # targets of a conversation, in the ids that a row holds
    conversation: NDArray[np.bool_]


def find_segments(tokens: Tokens, specials: Mapping[str, int], longest: int, loss_on: str = "assistant") -> Segments:
    """Find all segments of at most `longest` ids; with `loss_on` all, whole conversations are targets."""
    columns = [[np.empty(0, kind)] for kind in (np.int64, np.int32, np.int32, np.bool_)]
    counts = Contents()
    for found in _documents(tokens, specials, longest):
        # The end-of-text after a document is its last target; what the split ends with has none.
        wanted = np.where(found.conversation, np.minimum(found.sizes, longest) - 1, found.sizes)
        if found.starts[-1] + found.sizes[-1] == len(tokens) and not found.conversation[-1]:
            wanted[-1] -= 1
        pieces = -(-wanted // (longest - 1))
        which = np.repeat(np.arange(len(pieces)), pieces)
        skipped = (np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * (longest - 1)
        targets = np.minimum(wanted[which] - skipped, longest - 1)
        lengths, conversation = targets + 1, found.conversation[which]
        if loss_on == "assistant":
            targets[conversation] = found.replies[which[conversation]]
        counts += Contents(
            documents=int((~found.conversation).sum()),
            document_targets=int(targets[~conversation].sum()),
            conversations=int(found.conversation.sum()),
            conversation_targets=int(targets[conversation].sum()),
            silent=int((targets[conversation] == 0).sum()),
            too_long=int((found.sizes[found.conversation] > longest).sum()),
        )
        made = (found.starts[which] + skipped, lengths.astype(np.int32), targets.astype(np.int32), conversation)
        for column, values in zip(columns, made, strict=True):
            column.append(values)
    starts, lengths, targets, conversation = (_joined(column) for column in columns)
    return Segments(starts, lengths, targets, conversation, counts)


def _joined(column: list[NDArray[Any]]) -> NDArray[Any]:
    """Put parts together and let go of them, as they are there twice for a moment."""
    whole = np.concatenate(column)
    column.clear()
    return whole


def count_conversations(tokens: Tokens, specials: Mapping[str, int]) -> int:
    """Count the documents that are conversations."""
    return sum(_openings(tokens, specials))


def holds_conversations(tokens: Tokens, specials: Mapping[str, int]) -> bool:
    """Say whether any document is a conversation, having looked no further than the first one that is."""
    return any(_openings(tokens, specials))


def _openings(tokens: Tokens, specials: Mapping[str, int]) -> Iterator[int]:
    """Yield for one stretch of the split after the other how many conversations begin there."""
    roles, mark = _roles(specials), specials.get(END_OF_TEXT)
    for first in range(0, len(tokens), CHUNK):
        ids = tokens[first : first + CHUNK + 1]
        yield int(np.isin(ids[1:][ids[:-1] == mark], roles).sum())


def _roles(specials: Mapping[str, int]) -> list[int]:
    return [specials[name] for name in ROLES.values() if name in specials]


def _documents(tokens: Tokens, specials: Mapping[str, int], longest: int) -> Iterator[_Documents]:
    """Yield all documents, chunk by chunk, found by going from one special id to the next.

    What stands before the first end-of-text is the rest of a document that was cut; of a conversation it is left out.
    """
    end, assistant, roles = specials[END_OF_TEXT], specials[ROLES["assistant"]], _roles(specials)
    last, last_id, start = -1, end, -1  # the last special id seen and where; where the document around it begins
    starts, replies, conversation = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.bool_)
    for first in range(0, len(tokens) + 1, CHUNK):
        ids = np.append(tokens[first : first + CHUNK].astype(np.int64), [end] if first + CHUNK > len(tokens) else [])
        where = np.flatnonzero(np.isin(ids, list(specials.values())))
        if not len(where):
            continue
        here, next_ids = where + first, ids[where]  # each pair of neighbours: from `before`, `before_ids` to these
        before, before_ids = np.append(last, here[:-1]), np.append(last_id, next_ids[:-1])
        opens = before_ids == end
        begun = np.maximum.accumulate(np.where(opens, before, start))
        until = np.minimum(here - (next_ids == end), begun + longest - 1)
        said = np.where(before_ids == assistant, np.maximum(until - before, 0), 0)
        number = np.cumsum(opens)  # 0: the document that an earlier chunk began with
        sums = np.bincount(number, said, minlength=int(number[-1]) + 1).astype(np.int64)
        replies[-1:] += sums[:1]
        starts, replies = np.append(starts, before[opens]), np.append(replies, sums[1:])
        conversation = np.append(conversation, np.isin(next_ids[opens], roles) & (here[opens] == before[opens] + 1))
        if last < 0:  # the first document so far is what stands before the first end-of-text
            starts[0] = 0
            kept = slice(0 if here[0] > 0 and next_ids[0] == end else 1, None)
            starts, replies, conversation = starts[kept], replies[kept], conversation[kept]
        if len(starts) > 1:
            yield _Documents(starts[:-1], np.diff(starts), replies[:-1], conversation[:-1])
            starts, replies, conversation = starts[-1:], replies[-1:], conversation[-1:]
        last, last_id, start = int(here[-1]), int(next_ids[-1]), int(begun[-1])
    if len(starts):
        yield _Documents(starts, len(tokens) - starts, replies, conversation)
