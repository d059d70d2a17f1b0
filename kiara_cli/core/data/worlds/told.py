"""A text that a model told → which story of the world it is, and which row each of its slots stands for.

In: a world, the turn that asked for a story, and the text. Out: the talk and the rows, or None.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kiara_cli.core.data.worlds.talks import Had, Turn, words
from kiara_cli.core.data.worlds.template import SLOT, Row, Rows, Slot, Template
from kiara_cli.core.data.worlds.world import Talk, World

MOST = 64  # choices of rows that are tried where a text leaves several open

Fitting = dict[str, Sequence[Row]]  # by name the rows that it can stand for


@dataclass(frozen=True)
class Told:
    """A story that was recognised, sentence by sentence and nothing else."""

    talk: Talk
    rows: dict[str, Row]  # of the names that its sentences have

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.rows)


class Stories:
    """Recognises the stories of a world; what it has compiled for that is kept."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._expressions: dict[tuple[str, str], re.Pattern[str]] = {}
        self.reached = 0  # how far the text that was read last is a story
        self._written: dict[tuple[str, Slot], dict[str, list[Row]]] = {}

    def read(self, turn: Turn, text: str) -> Told | None:
        """Recognise a text as a story of one of the talks that a request may begin."""
        self.reached = 0
        for talk in self._candidates(turn):
            for chosen, fitting in self._readings(talk, text.strip(), 0, 0, {}):
                if (rows := self._settle(talk, chosen, fitting, text)) is not None:
                    return Told(talk, rows)
        return None

    def correct(self, had: Had, told: Told | None, text: str) -> None:
        """Put what a model told in the place of the story that was drawn; of what is no story, what can be read."""
        talk = told.talk if told is not None else had.talk
        found = told.rows if told is not None else self._parts(talk, text)
        had.talk, had.reply, had.whole = talk, text, told is not None
        had.rows, had.told = {**had.rows, **found}, frozenset(found)

    def _candidates(self, turn: Turn) -> list[Talk]:
        """Return the talks that can follow on what was said: those of the same topic that have this wording, too."""
        own = turn.had.talk
        alike = [
            talk for talk in self.world.talks
            if talk is not own and talk.tells and talk.topic == own.topic
            and any(wording.text == turn.wording.text for wording in talk.opening.user + talk.opening.held_out)
        ]  # fmt: skip
        return [own, *alike]

    def _readings(
        self, talk: Talk, text: str, start: int, number: int, fitting: Fitting
    ) -> Iterator[tuple[list[Template], Fitting]]:
        """Yield the wordings that a text has from the beat `number` on, and the rows that all names can mean."""
        if number == len(talk.opening.reply):
            if start >= len(text):
                yield [], fitting
            return
        for template in sorted(talk.opening.reply[number], key=lambda template: not template.text):
            if not template.text:
                yield from self._readings(talk, text, start, number + 1, fitting)
                continue
            found = self._expression(talk, template).match(text, start)
            both = self._narrowed(talk, template, found, fitting) if found is not None else None
            if found is not None and both is not None:
                self.reached = max(self.reached, found.end())
                for chosen, rest in self._readings(talk, text, found.end(), number + 1, both):
                    yield [template, *chosen], rest

    def _narrowed(self, talk: Talk, template: Template, found: re.Match[str], fitting: Fitting) -> Fitting | None:
        """Keep of each name's rows those that fit a sentence that was found; None where a name has none left."""
        both = dict(fitting)
        for slot, value in zip(template.slots(), found.groups(), strict=True):
            every = self._values(talk, slot)
            rows = list(every.get(value.lower(), ()))
            for written in (written for written in every if "\0" in written):
                rows += every[written] if re.fullmatch(_open(written), value, re.IGNORECASE) else ()
            both[slot.name] = [row for row in both.get(slot.name, rows) if row in rows]
            if not both[slot.name]:
                return None
        return both

    def _settle(self, talk: Talk, chosen: Sequence[Template], fitting: Fitting, text: str) -> dict[str, Row] | None:
        """Return rows with which the wordings give just this text; None if there are none."""
        first = {name: rows[0] for name, rows in fitting.items()}
        inner = {name for template in chosen for name in template.all_names(first)} - set(first)
        choices = dict(fitting) | {name: self.world.rows[talk.names[name].table] for name in inner}
        wanted = words(text)
        for picked in itertools.islice(itertools.product(*choices.values()), MOST):
            rows = dict(zip(choices, picked, strict=True))
            if _joined(talk, rows) and words(" ".join(template.fill(rows) for template in chosen)) == wanted:
                return rows
        return None

    def _parts(self, talk: Talk, text: str) -> dict[str, Row]:
        """Read from what is no whole story the names that its sentences settle, and on which they agree."""
        settled: dict[str, Sequence[Row]] = {}
        for template in (template for beat in talk.opening.reply for template in beat if template.text):
            found = self._expression(talk, template).search(text)
            for name, rows in ((found and self._narrowed(talk, template, found, {})) or {}).items():
                settled[name] = [row for row in settled.get(name, rows) if row in rows]
        return {name: rows[0] for name, rows in settled.items() if len(rows) == 1}

    def _values(self, talk: Talk, slot: Slot) -> dict[str, list[Row]]:
        """Return what can stand in a slot, in small letters, with the rows; slots in it are a zero byte."""
        key = (talk.names[slot.name].table, slot)
        if key not in self._written:
            found: dict[str, list[Row]] = defaultdict(list)
            for row in self.world.rows[key[0]]:
                found[SLOT.sub("\0", slot.written(row[slot.column])).lower()].append(row)
            self._written[key] = dict(found)
        return self._written[key]

    def _expression(self, talk: Talk, template: Template) -> re.Pattern[str]:
        """Return a sentence as a regular expression, each slot a group of all that it can be."""
        key = (talk.name, template.text)
        if key not in self._expressions:
            found = [
                f"({'|'.join(map(_open, sorted(self._values(talk, part), key=len, reverse=True)))})"
                if isinstance(part, Slot) else re.escape(part)
                for part in template.parts
            ]  # fmt: skip
            self._expressions[key] = re.compile("".join(found) + r"\s*", re.IGNORECASE)
        return self._expressions[key]


def _open(written: str) -> str:
    """Return a pattern of a value whose own slots may be anything short."""
    return ".{1,60}?".join(re.escape(part) for part in written.split("\0"))


def _joined(talk: Talk, rows: Rows) -> bool:
    """Say whether rows that are drawn by one another belong together, and no two names mean the same row."""
    for name, row in rows.items():
        draw = talk.names[name]
        if draw.by is not None and draw.by[0] in rows and not draw.fits(row, rows):
            return False
        if any(rows[other] == row for other in rows if other != name and talk.names[other].table == draw.table):
            return False
    return True
