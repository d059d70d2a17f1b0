"""Sentences with slots.

In: a sentence such as `{A g} costs {g.price}.`, and which row each name stands for. Out: text.

| slot | what it becomes |
|---|---|
| {g} | the column `name` of the row that g stands for |
| {g.price} | another column |
| {G}, {G.price} | the same with a capital letter |
| {a g}, {A g} | with a or an before it |
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Row = Mapping[str, str]
Rows = Mapping[str, Row]  # which row each name stands for
SLOT = re.compile(r"\{([^{}]*)\}")
AN = re.compile(
    r"(?!uni|use|eu|one\b|ukulele)[aeiou]|hour", re.IGNORECASE
)  # words that are spoken with a vowel first
INSIDE = re.compile(r"(?:(?P<article>[aA]) )?(?P<name>[A-Za-z]\w*)(?:\.(?P<column>\w+))?")


@dataclass(frozen=True)
class Slot:
    """A slot: of which name, which column, and how it is written."""

    name: str
    column: str
    article: str = ""  # "", "a" or "A"
    capital: bool = False

    @classmethod
    def parse(cls, inside: str) -> Slot | None:
        """Read what stands between the braces; None if it is no slot."""
        match = INSIDE.fullmatch(inside.strip())
        if match is None:
            return None
        name = match["name"]
        capital = name[0].isupper()
        return cls(name[0].lower() + name[1:], match["column"] or "name", match["article"] or "", capital)

    def value(self, rows: Rows) -> str:
        """Return what it becomes."""
        return self.written(fill(rows[self.name][self.column], rows))

    def written(self, value: str) -> str:
        """Write a value in this slot's way."""
        if self.article:
            value = f"{self.article}{'n' if AN.match(value) else ''} {value}"
        return value[:1].upper() + value[1:] if self.capital else value


def fill(text: str, rows: Rows) -> str:
    """Put the values of slots in; a value may have slots of its own."""
    if "{" not in text:
        return text
    return "".join([part if isinstance(part, str) else part.value(rows) for part in parts(text)])


@functools.cache
def parts(text: str) -> tuple[str | Slot, ...]:
    """Return a sentence as what stands between its slots, and the slots."""
    found: list[str | Slot] = []
    for number, part in enumerate(SLOT.split(text)):
        slot = Slot.parse(part) if number % 2 else None
        assert number % 2 == 0 or slot is not None, "checked when the file was read"
        found.append(slot or part)
    return tuple(found)


@functools.cache
def names(text: str) -> frozenset[str]:
    """Return the names of a text's slots."""
    return frozenset(part.name for part in parts(text) if isinstance(part, Slot))


@dataclass(frozen=True)
class Template:
    """A sentence, and where it stands in its file."""

    text: str
    line: int = 0

    @property
    def parts(self) -> tuple[str | Slot, ...]:
        """What stands between its slots, and the slots."""
        return parts(self.text)

    def slots(self) -> Iterator[Slot]:
        """Yield its slots in order."""
        return (part for part in self.parts if isinstance(part, Slot))

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """The names of its slots."""
        return names(self.text)

    def all_names(self, rows: Rows) -> Iterator[str]:
        """Yield the names of its slots, and of those that their values have."""
        for slot in self.slots():
            yield slot.name
            yield from names(rows[slot.name][slot.column])

    def fill(self, rows: Rows) -> str:
        """Put the values in."""
        return fill(self.text, rows)
