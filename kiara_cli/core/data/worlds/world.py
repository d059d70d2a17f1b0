"""What a small world is made of, once its file has been read.

In: nothing. Out: `World`: tables of rows, and talks whose sentences have slots for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from kiara_cli.core.data.worlds.template import Row, Rows, Template

Beat = tuple[Template, ...]  # the ways in which one sentence can be put


@dataclass(frozen=True)
class Exchange:
    """What a person says and what is answered."""

    name: str
    user: Beat
    reply: tuple[Beat, ...]  # sentences in their order, each with its wordings
    held_out: Beat = ()  # ways to say it that only the scorer uses
    right: Beat = ()  # a right reply holds one of these; empty: the values of its slots, or one of its wordings
    wrong: Beat = ()  # and none of these
    before: Beat = ()  # of a question about what was said earlier: the reply where nothing was


@dataclass(frozen=True)
class Draw:
    """Where a name's row is drawn from: a table, and the column in which it equals another name's row."""

    table: str
    by: tuple[str, str] | None = None  # the other name, and the column

    def fits(self, row: Row, rows: Rows) -> bool:
        return self.by is None or row[self.by[1]] == rows[self.by[0]][self.by[1]]


@dataclass(frozen=True)
class Talk:
    """An exchange that can be had at any time, and those that can follow it, at once or later."""

    opening: Exchange
    names: Mapping[str, Draw]  # where each name of its slots is drawn from
    later: tuple[Exchange, ...] = ()
    share: float = 1.0  # how often it is had, beside the others
    place: str = ""  # "first" or "last": only there
    passages: tuple[Beat, ...] = ()  # texts that stand before the question; the first of them holds the answer
    topic: str = ""  # talks of one topic take each other's place: then only questions that name something go back

    @property
    def name(self) -> str:
        return self.opening.name

    @property
    def tells(self) -> bool:
        """Whether its reply is made of several sentences: then what a later question asks for may not be in it."""
        return len(self.opening.reply) > 1


@dataclass(frozen=True)
class World:
    """A small world."""

    name: str
    tables: Mapping[str, tuple[Row, ...]]
    talks: tuple[Talk, ...]
    unsaid: Beat  # the reply where a story does not tell what is asked
    unfound: Beat  # the reply where no passage does
    earlier: Beat = ()  # what stands before a question about the first of two stories, such as "In the first story,"
    rare: Mapping[str, tuple[Row, ...]] = field(
        default_factory=dict
    )  # more rows, drawn only where a person names them
    unseen: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)  # the same, drawn only for the scorer

    def choices(self, talk: Talk) -> dict[str, tuple[Row, ...]]:
        """Return the rows that each name of a talk can stand for."""
        return {name: self.rows[draw.table] for name, draw in talk.names.items()}

    @cached_property
    def rows(self) -> dict[str, tuple[Row, ...]]:
        """All rows of each table."""
        return {
            name: rows + self.rare.get(name, ()) + self.unseen.get(name, ()) for name, rows in self.tables.items()
        }
