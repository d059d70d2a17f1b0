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

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Row = Mapping[str, str]
Rows = Mapping[str, Row]  # which row each name stands for
SLOT = re.compile(r"\{([^{}]*)\}")
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
        return self.written(rows[self.name][self.column])

    def written(self, value: str) -> str:
        """Write a value in this slot's way."""
        if self.article:
            value = f"{self.article}{'n' if value[:1].lower() in 'aeiou' else ''} {value}"
        return value[:1].upper() + value[1:] if self.capital else value


@dataclass(frozen=True)
class Template:
    """A sentence, and where it stands in its file."""

    text: str
    line: int = 0

    def slots(self) -> Iterator[Slot]:
        """Yield its slots in order; those that cannot be read are left out."""
        for inside in SLOT.findall(self.text):
            if (slot := Slot.parse(inside)) is not None:
                yield slot

    def fill(self, rows: Rows) -> str:
        """Put the values in."""

        def value(match: re.Match[str]) -> str:
            slot = Slot.parse(match[1])
            assert slot is not None, "checked when the file was read"
            return slot.value(rows)

        return SLOT.sub(value, self.text)

    def recognise(self, text: str, choices: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]] | None:
        """Find the sentence in a text; return for each of its names the rows that it can mean there, or None."""
        parts, groups, end = [], [], 0
        for match in SLOT.finditer(self.text):
            slot = Slot.parse(match[1])
            assert slot is not None, "checked when the file was read"
            values = {slot.written(row[slot.column]) for row in choices[slot.name]}
            parts += [re.escape(self.text[end : match.start()])]
            parts += [f"({'|'.join(re.escape(value) for value in sorted(values, key=len, reverse=True))})"]
            groups.append(slot)
            end = match.end()
        found = re.search("".join([*parts, re.escape(self.text[end:])]), text, re.IGNORECASE)
        if found is None:
            return None
        fitting = {name: list(choices[name]) for name in {slot.name for slot in groups}}
        for slot, value in zip(groups, found.groups(), strict=True):
            same = [row for row in fitting[slot.name] if slot.written(row[slot.column]).lower() == value.lower()]
            fitting[slot.name] = same
        return fitting
