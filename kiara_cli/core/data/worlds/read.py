"""A world's file → `World`, with every mistake named by line.

In: a YAML file with the keys `world`, `tables`, `talks` and `unsaid`. Out: `World`. Raises KiaraError.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from kiara_cli.config.folders import as_path
from kiara_cli.config.text import UNREADABLE, Loader, first_line, read_text
from kiara_cli.core.data.worlds.template import SLOT, Row, Slot, Template
from kiara_cli.core.data.worlds.world import Beat, Draw, Exchange, Talk, World
from kiara_cli.errors import KiaraError

FAST = getattr(yaml, "CSafeLoader", Loader)  # in C where PyYAML was built so: a fifth of the time
SUFFIXES = (".yaml", ".yml")
HEAD = re.compile(r"^world\s*:", re.MULTILINE)
WORLD_KEYS = ("world", "tables", "rare", "unseen", "talks", "unsaid", "unfound", "earlier")
EXCHANGE_KEYS = ("user", "reply", "held_out", "right", "wrong")
TALK_KEYS = (*EXCHANGE_KEYS, "tells", "with", "later", "share", "place", "topic", "passages")
LATER_KEYS = (*EXCHANGE_KEYS, "before")
PLACES = ("first", "last")


def is_world(path: Path) -> bool:
    """Say whether a file is a world: YAML with a key `world` at the left."""
    try:
        return path.suffix.lower() in SUFFIXES and HEAD.search(read_text(path, "replace")) is not None
    except OSError:
        return False


def read_world(path: Path) -> World:
    """Read a world; a text that was read before is not parsed again. Raises KiaraError naming file, line and slot."""
    try:
        return _parsed(path, read_text(path))
    except (OSError, *UNREADABLE) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        reason = getattr(error, "problem", None) or first_line(error)
        raise KiaraError(f"{path}{line} cannot be read: {reason}", "correct the file") from None


@functools.lru_cache(maxsize=4)
def _parsed(path: Path, text: str) -> World:
    try:
        node = yaml.compose(text, Loader=FAST)
    except yaml.YAMLError:
        node = yaml.compose(text, Loader=Loader)  # whose messages say more
    return _Reader(path)._world(_Node(path, node))


@dataclass(frozen=True)
class _Node:
    """A place in the file."""

    path: Path
    node: Any

    @property
    def line(self) -> int:
        return int(self.node.start_mark.line) + 1 if self.node is not None else 1

    def wrong(self, cause: str, remedy: str) -> KiaraError:
        return KiaraError(f"{self.path}, line {self.line}: {cause}", remedy)

    @cached_property
    def items(self) -> dict[str, _Node]:
        """A mapping's keys and values."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong("a mapping is expected here", "write `key: value` lines")
        found: dict[str, _Node] = {}
        for key, value in self.node.value:
            if key.value in found:
                raise _Node(self.path, key).wrong(f"'{key.value}' stands twice", "keep one of the two")
            found[key.value] = _Node(self.path, value)
        return found

    def among(self, known: Iterable[str], what: str) -> dict[str, _Node]:
        """A mapping whose keys are all known."""
        known = list(known)
        for key, value in self.items.items():
            if key not in known:
                raise value.wrong(f"no key '{key}' in {what}", f"choose one of: {_nearest(key, known)}")
        return self.items

    @property
    def elements(self) -> list[_Node]:
        """The elements of a list; anything else is a list of one."""
        if isinstance(self.node, yaml.SequenceNode):
            return [_Node(self.path, element) for element in self.node.value]
        return [self]

    @property
    def text(self) -> str:
        if not isinstance(self.node, yaml.ScalarNode) or not self.node.value.strip():
            raise self.wrong(
                "a text is expected here", "write a word or a sentence; put it in quotes if it has a colon"
            )
        return str(self.node.value)


Names: TypeAlias = Mapping[str, Draw]
Tables: TypeAlias = Mapping[str, tuple[Row, ...]]


@dataclass(frozen=True)
class _Reader:
    path: Path
    _found: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def _world(self, node: _Node) -> World:
        keys = node.among(WORLD_KEYS, "a world")
        for needed in ("world", "talks"):
            if needed not in keys:
                raise node.wrong(f"a world needs the key '{needed}'", "see docs/worlds.md for an example")
        tables = (
            {name: _table(table, name) for name, table in keys["tables"].items.items()} if "tables" in keys else {}
        )
        talks = tuple(self._talk(name, talk, tables) for name, talk in keys["talks"].items.items())
        if not any(talk.place == "" for talk in talks):
            raise keys["talks"].wrong("every talk has a place", "leave `place` out of at least one")
        unsaid, unfound = (
            self._beat(keys[key], {}, tables) if key in keys else (Template(usual),)
            for key, usual in (("unsaid", "I don't know."), ("unfound", "The passages do not say."))
        )
        rare, unseen = (_more(keys[key], tables) if key in keys else {} for key in ("rare", "unseen"))
        earlier = self._beat(keys["earlier"], {}, tables) if "earlier" in keys else ()
        return World(keys["world"].text, tables, talks, unsaid, unfound, earlier, rare, unseen)

    def _talk(self, name: str, node: _Node, tables: Mapping[str, tuple[Row, ...]]) -> Talk:
        keys = node.among(TALK_KEYS, f"the talk {name}")
        names = self._draws(name, keys["with"], tables) if "with" in keys else {}
        later = tuple(
            self._exchange(f"{name}, {key}", value, names, tables, LATER_KEYS)
            for part in (keys["later"].elements if "later" in keys else ())
            for key, value in part.items.items()
        )
        place = keys["place"].text if "place" in keys else ""
        if place and place not in PLACES:
            raise keys["place"].wrong(f"no place '{place}'", "write first or last, or leave it out")
        opening = self._exchange(name, node, names, tables, TALK_KEYS)
        topic = keys["topic"].text if "topic" in keys else name
        shown = keys["passages"].elements if "passages" in keys else []
        passages = tuple(self._beat(beat, names, tables) for beat in shown)
        return Talk(opening, names, later, _share(keys["share"]) if "share" in keys else 1.0, place, passages, topic)

    def _draws(self, talk: str, node: _Node, tables: Tables) -> dict[str, Draw]:
        """Read where the names of a talk are drawn from: `table`, or `table by other.column`."""
        draws: dict[str, Draw] = {}
        for name, value in node.items.items():
            table, _, by = value.text.partition(" by ")
            other, _, column = by.partition(".")
            if table not in tables:
                raise value.wrong(f"{name} is drawn from '{table}', which is no table", _choose(table, tables))
            if by and (other not in draws or column not in tables[table][0]):
                raise value.wrong(f"'{by}' is no column of a name before it", "write `table by name.column`")
            draws[name] = Draw(table, (other, column) if by else None)
            if len(tables[table]) < [draw.table for draw in draws.values()].count(table):
                raise value.wrong(f"the table '{table}' has too few rows for {talk}", "add some")
        return draws

    def _exchange(self, name: str, node: _Node, names: Names, tables: Tables, known: Iterable[str]) -> Exchange:
        keys = node.among(known, name)
        beats = {
            key: self._beat(keys[key], names, tables)
            for key in ("user", "held_out", "right", "wrong", "before") if key in keys
        }  # fmt: skip
        if not beats.get("user"):
            raise node.wrong(f"{name} has no 'user'", "write what a person says")
        if ("tells" in keys) == ("reply" in keys):
            raise node.wrong(f"{name} needs either 'reply' or 'tells'", "`tells` is a list of sentences")
        told = keys["tells"].elements if "tells" in keys else [keys["reply"]]
        reply = tuple(self._beat(beat, names, tables, "tells" in keys) for beat in told)
        return Exchange(name, beats.pop("user"), reply, **beats)

    def _beat(self, node: _Node, names: Names, tables: Tables, may_be_empty: bool = False) -> Beat:
        """Read the wordings of a sentence, and check their slots; lists in the list are part of it."""
        found: list[Template] = []
        for element in node.elements:
            if isinstance(element.node, yaml.SequenceNode):
                found += self._beat(element, names, tables, may_be_empty)
            else:
                found.append(self._template(element, names, tables, may_be_empty))
        return tuple(found)

    def _template(self, node: _Node, names: Names, tables: Tables, may_be_empty: bool) -> Template:
        if may_be_empty and isinstance(node.node, yaml.ScalarNode) and not node.node.value:
            return Template("", node.line)
        text = node.text
        if SLOT.sub("", text).count("{") or SLOT.sub("", text).count("}"):
            raise node.wrong("a brace has no partner", "write a slot as {name} or {name.column}")
        for inside in SLOT.findall(text):
            slot = Slot.parse(inside)
            if slot is None:
                raise node.wrong(f"{{{inside}}} is no slot", "write {name}, {name.column}, {a name} or {A name}")
            if slot.name not in names:
                raise node.wrong(
                    f"{{{inside}}}: nothing is called '{slot.name}' here", _choose(slot.name, names, "with")
                )
            table = names[slot.name].table
            rows = tables[table]
            if slot.column not in rows[0]:
                raise node.wrong(
                    f"{{{inside}}}: no column '{slot.column}' in '{table}'", _choose(slot.column, rows[0])
                )
            for inner in self._inside(table, slot.column, rows):
                nested = Slot.parse(inner)
                if nested is None or nested.name not in names:
                    raise node.wrong(
                        f"{{{inside}}}: a row of '{table}' has {{{inner}}}, which is nothing here", "name it"
                    )
        return Template(text, node.line)

    def _inside(self, table: str, column: str, rows: Sequence[Row]) -> set[str]:
        """Return the slots in a table's column, looked for once."""
        if (table, column) not in self._found:
            self._found[table, column] = {inner for row in rows for inner in SLOT.findall(row[column])}
        return self._found[table, column]


def _table(node: _Node, name: str, before: Sequence[Row] = ()) -> tuple[Row, ...]:
    """Read a table: words, or rows with the same columns; `before` are rows of it that stand elsewhere."""
    rows: list[Row] = list(before)
    names = {row["name"] for row in rows}
    for element in node.elements:
        row = {"name": element.text} if isinstance(element.node, yaml.ScalarNode) else {
            key: value.text for key, value in element.items.items()
        }  # fmt: skip
        if "name" not in row:
            raise element.wrong(f"a row of '{name}' has no name", "write {name: …, …}")
        if rows and row.keys() != rows[0].keys():
            other = ", ".join(sorted(row.keys() ^ rows[0].keys()))
            raise element.wrong(
                f"'{row['name']}' has other columns than the rows before it ({other})", "add or remove them"
            )
        if row["name"] in names:
            raise element.wrong(f"'{row['name']}' is in '{name}' twice", "keep one of the two")
        rows.append(row)
        names.add(row["name"])
    if not rows:
        raise node.wrong(f"the table '{name}' is empty", "give it rows, or remove it")
    return tuple(rows[len(before) :])


def _more(node: _Node, tables: Tables) -> dict[str, tuple[Row, ...]]:
    """Read more rows of tables that there are, none of which these have."""
    return {name: _table(more, name, tables[name]) for name, more in node.among(tables, "tables").items()}


def _share(node: _Node) -> float:
    try:
        share = float(node.text)
    except ValueError:
        share = 0.0
    if not 0 < share < float("inf"):
        raise node.wrong(f"share: {node.text} is not above 0", "write a number such as 2")
    return share


def _nearest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    return ", ".join(difflib.get_close_matches(word, known, 1) or known)


def _choose(word: str, known: Iterable[str], where: str = "") -> str:
    known = list(known)
    near = difflib.get_close_matches(word, known, 1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"there is: {', '.join(known)}" if known else f"name it under `{where or 'tables'}`"


def packaged(name: str) -> Path:
    """Return where a world of this package would be."""
    return Path(__file__).parent / f"{name}.yaml"


def world_of(source: str) -> World | None:
    """Return the world that a source is: a file, or a corpus that is one of this package's; None if it is none.

    Raises KiaraError.
    """
    path = packaged(source) if source.isidentifier() and packaged(source).is_file() else Path(as_path(source))
    return read_world(path) if is_world(path) else None
