"""What is held out for validation: decided by what the documents say, so always the same.

In: documents and the share to hold out. Out: a rule, and with it the documents of each side. Of many documents those
are held out whose content hash falls below a limit. Where that is far from the share, as with few documents of
unequal length, another limit is taken, or the end of the largest document.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from kiara_cli.core.data.documents import Document
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.errors import KiaraError

MANY = 500  # documents, of which a share by their number is about that share of the text
NEAR = 2.0  # a held-out share is near the one asked for if it is at most so many times more or less
NEAR_TALKS = 5.0  # the same where a conversation would have to be cut: one of two is near a tenth


@dataclass(frozen=True)
class Split:
    """Either a limit on the documents' draws, or the place where one document is cut."""

    limit: float = 0.0
    document: str = ""  # the content of the one that is cut
    cut: int = 0  # how much of it is trained on: characters, or ids where it has those

    def sides(self, documents: Iterable[Document]) -> Iterator[tuple[Document, bool]]:
        """Yield each document, or part of one, and whether it is held out."""
        end = 0
        for document in documents:
            if not self.document or document.content != self.document:
                yield document, document.draw < self.limit
                continue
            start = end if document.continues else 0
            end = start + length(document)
            if end <= self.cut:
                yield document, False
            elif start >= self.cut:  # what is held out opens as a document of its own
                yield dataclasses.replace(document, continues=start > self.cut, held_out=self.cut > 0), True
            else:
                yield from zip(halves(document, self.cut - start), (False, True), strict=True)


def length(document: Document) -> int:
    """Return how much there is of a document: characters, or ids where it has those."""
    return len(document.text) if document.ids is None else len(document.ids)


def halves(document: Document, at: int) -> tuple[Document, Document]:
    """Cut a document at a place within it; of a conversation both halves keep their roles."""
    first: list[Message] = []
    rest: list[Message] = []
    room = at
    for message in document.messages:
        role, text = message["role"], message["content"]
        if room > 0:
            first.append({"role": role, "content": text[:room]})
        if room < len(text) or room <= 0:
            rest.append({"role": role, "content": text[max(0, room) :]})
        room -= len(text) + 1  # as they are joined by newlines
    text, ids = document.text, document.ids
    head = dataclasses.replace(document, text=text[:at], messages=tuple(first), ids=ids if ids is None else ids[:at])
    tail = dataclasses.replace(
        document,
        text=text[at:],
        messages=tuple(rest),
        ids=ids if ids is None else ids[at:],
        continues=False,
        held_out=True,
    )
    return head, tail


@dataclass
class _Seen:
    """A text that was seen, once or several times."""

    content: str
    length: int
    messages: tuple[Message, ...]
    pair: bool  # which is not cut
    copies: int = 1

    @property
    def whole(self) -> int:
        return self.length * self.copies


def decide(documents: Iterable[Document], fraction: float, source: str, uneven: bool = False) -> Split:
    """Find the rule that holds about `fraction` of the text out, and neither none nor all of it.

    Reads no further than needed: of many documents until there is one for each side, unless one may be so long
    (`uneven`) that all must be seen. There must be a document. Raises KiaraError.
    """
    seen: dict[float, _Seen] = {}  # by their draws
    count, lowest, highest = 0, 2.0, -1.0
    for document, size in _wholes(documents):
        count, draw = count + 1, document.draw
        lowest, highest = min(lowest, draw), max(highest, draw)
        if draw in seen:
            seen[draw].copies += 1
        else:
            talk = document.messages if count <= MANY else ()
            seen[draw] = _Seen(document.content, size, talk, document.rejected is not None)
        if count > MANY and not uneven and lowest < fraction <= highest:
            return Split(limit=fraction)
    if count > 1 and len(seen) == 1:
        raise KiaraError(
            f"{source}: all documents hold the same text, none can be held out",
            "give data.val_source, or one document",
        )
    limit, times = _best_limit(seen, fraction) if count > 1 else (0.0, math.inf)
    largest = max(seen.values(), key=lambda text: (text.whole, text.content))
    if times <= (NEAR_TALKS if largest.messages else NEAR):
        return Split(limit=limit)
    total = sum(text.whole for text in seen.values())
    kept = (int(total * (1 - fraction)) - (total - largest.whole)) // largest.copies
    place = _place_in_talk(largest.messages, kept, fraction) if largest.messages else _place(largest.length, kept)
    place = None if largest.pair else place
    if place is not None:
        return Split(document=largest.content, cut=place)
    if count > 1:
        return Split(limit=limit)
    if largest.messages:
        raise KiaraError(
            f"{source} is one conversation too short to hold a part of it out",
            "give more of them, or data.val_source",
        )
    return Split(document=largest.content)


def _wholes(documents: Iterable[Document]) -> Iterator[tuple[Document, int]]:
    """Yield each document, or the first part of a long one, with the length of all of it."""
    held, size = None, 0
    for document in documents:
        if not document.continues:
            if held is not None:
                yield held, size
            held, size = document, 0
        size += length(document)
    if held is not None:
        yield held, size


def _best_limit(seen: Mapping[float, _Seen], fraction: float) -> tuple[float, float]:
    """Return the limit that holds out a share nearest to the one asked for, and how many times it is off.

    The fraction itself is the limit where that is near, so that documents keep their side when others come.
    """
    total = max(1, sum(text.whole for text in seen.values()))

    def times(held: int) -> float:
        ratio = held / total / fraction
        return max(ratio, 1 / ratio) if ratio and held < total else math.inf

    usual = times(sum(text.whole for draw, text in seen.items() if draw < fraction))
    if usual <= NEAR:
        return fraction, usual
    draws = sorted(seen)
    held = accumulate(seen[draw].whole for draw in draws[:-1])
    return min(zip(draws[1:], map(times, held), strict=True), key=lambda limit: limit[1])


def _place(length: int, kept: int) -> int | None:
    """Return where to cut a text, so that there is something on both sides; None where that cannot be."""
    return max(1, min(kept, length - 1)) if length > 1 else None


def _place_in_talk(messages: Sequence[Message], kept: int, fraction: float) -> int | None:
    """Return where to cut a conversation: before the request nearest to `kept`, so that something is said on both
    sides; else within the assistant's longest message; None where that has no two characters."""
    starts = [sum(len(before["content"]) + 1 for before in messages[:index]) for index in range(len(messages))]
    replies = [
        index for index, message in enumerate(messages) if message["role"] == "assistant" and message["content"]
    ]
    if not replies:
        return None
    between = [
        start
        for index, (start, message) in enumerate(zip(starts, messages, strict=True))
        if message["role"] == "user" and replies[0] < index < replies[-1]
    ]
    if between:
        return min(between, key=lambda start: abs(start - kept))
    longest = max(replies, key=lambda index: len(messages[index]["content"]))
    size = len(messages[longest]["content"])
    return starts[longest] + max(1, min(size - 1, int(size * (1 - fraction)))) if size > 1 else None
