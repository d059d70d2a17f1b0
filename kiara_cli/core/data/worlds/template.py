"""Sentences with slots, filled and recognised.

In: a sentence such as `{A g} costs {g.price}.`, and which row each name stands for. Out: text; or, from a text in
which the sentence occurs, the rows that fit.

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Row = Mapping[str, str]
Rows = Mapping[str, Row]  # which row each name stands for
SLOT = re.compile(r"\{([^{}]*)\}")
INSIDE = re.compile(r"(?:(?P<article>[aA]) )?(?P<name>[A-Za-z]\w*)(?:\.(?P<column>\w+))?")


def pattern(value: str) -> str:
    """Return a pattern of a value, in which its own slots may be anything short."""
    return ".{1,60}?".join(re.escape(part) for part in SLOT.sub("\0", value).split("\0"))


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
            value = f"{self.article}{'n' if value[:1].lower() in 'aeiou' else ''} {value}"
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


@dataclass(frozen=True)
class Template:
    """A sentence, and where it stands in its file."""

    text: str
    line: int = 0

    def slots(self) -> Iterator[Slot]:
        """Yield its slots in order."""
        return (part for part in parts(self.text) if isinstance(part, Slot))

    def fill(self, rows: Rows) -> str:
        """Put the values in."""

        return fill(self.text, rows)

    def recognise(self, text: str, choices: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]] | None:
        """Find the sentence in a text; return for each of its names the rows that it can mean there, or None."""
        found = self._expression(choices).search(text)
        if found is None:
            return None
        groups = list(self.slots())
        fitting = {name: list(choices[name]) for name in {slot.name for slot in groups}}
        for slot, value in zip(groups, found.groups(), strict=True):
            fitting[slot.name] = [
                row for row in fitting[slot.name]
                if re.fullmatch(pattern(slot.written(row[slot.column])), value, re.IGNORECASE)
            ]  # fmt: skip
        return fitting

    def _expression(self, choices: Mapping[str, Sequence[Row]]) -> re.Pattern[str]:
        """Return the sentence as a regular expression, each slot a group of all that it can be."""
        found = []
        for part in parts(self.text):
            if isinstance(part, str):
                found.append(re.escape(part))
            else:
                values = {pattern(part.written(row[part.column])) for row in choices[part.name]}
                found.append(f"({'|'.join(sorted(values, key=len, reverse=True))})")
        return re.compile("".join(found), re.IGNORECASE)
