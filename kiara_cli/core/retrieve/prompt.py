"""Passages before a question: what is searched for, how much of what is found fits, and the sources of an answer.

In: a question, an open index, a measure of what fits. Out: `Grounded`: the text of the user's turn, and its sources.
Only the newest question carries passages; those of former ones would fill the context with what is no longer asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from kiara_cli.config.schema import RetrieveConfig
from kiara_cli.core.retrieve.passage import Passage
from kiara_cli.core.retrieve.search import LONGEST, Index
from kiara_cli.core.tokenizer.passages import one_line, with_passages
from kiara_cli.errors import KiaraError

LEAST = 40  # characters: a shorter piece of a sentence says too little; a guess
# What makes a question one that is not understood without the one before it, in English; in other languages only its
# shortness does. benchmarks/follow_ups.py measures what it is worth.
REFERS = re.compile(
    r"\b(it|its|that|this|they|them|their|there|he|she|his|her|him|those|these|ones?|more|else|again|another|instead|"
    r"same|other)\b|^(and|but|or|so|also|then|why|how come|what about)\b",
    re.IGNORECASE,
)
SHORT = 2  # words
PARTS = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")  # between sentences, and between lines of what has none

Fits = Callable[[str], bool]


class Unsearchable(KiaraError):
    """The index cannot be searched now, whatever is asked."""


@dataclass(frozen=True)
class Source:
    """A passage that stood before a question. `text` is what the model read of it, in one line."""

    number: int
    passage: Passage
    text: str

    @property
    def line(self) -> str:
        """Return such as `[1] docs/hooks.md › Points, lines 12–30`."""
        return f"[{self.number}] {self.passage.place}"

    def record(self) -> dict[str, Any]:
        """Return it as JSON values. `text` is the whole passage there, `read` what the model read of it."""
        found = self.passage
        return {
            "number": self.number,
            "place": found.place,
            "file": found.file,
            "heading": list(found.heading),
            "first_line": found.first_line,
            "last_line": found.last_line,
            "text": found.text,
            "read": self.text,
        }


@dataclass(frozen=True)
class Grounded:
    """A question with passages before it, as it stands in the user's turn."""

    text: str
    sources: tuple[Source, ...] = ()
    left_out: int = 0  # passages that were found and do not fit


@dataclass(frozen=True)
class Knowledge:
    """An open index, by the name that a person knows it by, and how many of its passages a question gets."""

    name: str
    index: Index
    passages: int = RetrieveConfig.passages

    def search(self, question: str, former: str | None = None) -> list[Passage]:
        """Return passages for a question, best first.

        For one that refers to the question before it, half of them are found by both questions together: the first,
        the third, … Raises Unsearchable, such as where nothing answers at an embedder's address.
        """
        try:
            alone = self.index.search(question[-LONGEST:], self.passages)
            if former is None or not refers(question):
                return alone
            together = self.index.search(f"{former}\n{question}"[-LONGEST:], self.passages)
        except KiaraError as error:
            raise Unsearchable(error.cause, error.remedy) from None
        in_turn = (one for pair in zip_longest(together, alone) for one in pair if one is not None)
        return list({one.id: one for one in in_turn}.values())[: self.passages]


def refers(question: str) -> bool:
    """Tell a question such as "and why?", which says too little to be searched for by itself."""
    return len(question.split()) <= SHORT or REFERS.search(question.strip()) is not None


def ground(question: str, passages: Sequence[Passage], fits: Fits, safe: Callable[[str], str] = str) -> Grounded:
    """Put passages before a question, best first, as long as the turn fits.

    The first that does not fit is shortened to the sentences around the one that shares most words with the
    question; those after it are left out. `safe` is applied to the text of each.
    """
    sources: list[Source] = []

    def turn(*more: str) -> str:
        return with_passages(question, [*(source.text for source in sources), *more])

    for passage in passages:
        text = part_that_fits(safe(passage.text), question, lambda part: fits(turn(part)))
        if not text:
            break
        sources.append(Source(len(sources) + 1, passage, text))
        if text != one_line(safe(passage.text)):
            break
    return Grounded(turn(), tuple(sources), len(passages) - len(sources))


def part_that_fits(text: str, question: str, fits: Fits) -> str:
    """Return a passage in one line, or the part of it that fits and is nearest to the question; "" for none."""
    whole = one_line(text)
    if not whole or fits(whole):
        return whole
    parts = [line for line in map(one_line, PARTS.split(text)) if line]
    asked = words_of(question)
    shared = [len(asked & words_of(part)) for part in parts]
    first = last = shared.index(max(shared))
    if not fits(parts[first]):
        return beginning(parts[first], fits)
    while True:
        if last + 1 < len(parts) and fits(" ".join(parts[first : last + 2])):
            last += 1
        elif first and fits(" ".join(parts[first - 1 : last + 1])):
            first -= 1
        else:
            return " ".join(parts[first : last + 1])


def beginning(sentence: str, fits: Fits) -> str:
    """Return what fits of the beginning of a sentence, in whole words if it has any; "" if that is too little."""
    low, high = 0, len(sentence)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(sentence[:middle]) else (low, middle - 1)
    space = sentence.rfind(" ", low // 2, low + 1)
    cut = sentence[: space if space > 0 else low]
    return cut if len(cut) >= LEAST else ""


def words_of(text: str) -> set[str]:
    """Return the words of a text, in small letters."""
    return set(re.findall(r"\w+", text.lower()))
