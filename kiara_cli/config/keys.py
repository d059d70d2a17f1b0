"""What the schema says about a dotted key: its types, choices and range; and which key a misspelt one may mean.

In: a key such as `model.n_layers`. Out: facts about it, read off the dataclasses; a KiaraError where there is no such
key.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from typing import Any, Literal, get_args, get_origin, get_type_hints

from kiara_cli.config.hooks import SECTION as HOOKS
from kiara_cli.config.schema import Config
from kiara_cli.errors import KiaraError

TEXTS = tuple[str, ...]


@functools.cache
def keys() -> tuple[str, ...]:
    """List every dotted key of the schema, in its order; those of `hooks` are for the person to name."""
    return tuple(_within(Config, ""))


def _within(kind: Any, prefix: str) -> list[str]:
    found: list[str] = []
    for item in dataclasses.fields(kind):
        if item.name == HOOKS and kind is Config:
            continue
        section = _hints(kind)[item.name]
        found += (
            _within(section, f"{prefix}{item.name}.") if dataclasses.is_dataclass(section) else [prefix + item.name]
        )
    return found


@functools.cache
def sections() -> frozenset[str]:
    """List every section, those within others by their dotted names."""
    return frozenset(key.rpartition(".")[0] for key in keys() if "." in key)


@functools.cache
def kinds(key: str) -> tuple[Any, ...]:
    """Return the types a setting may have: (int, NoneType) for `int | None`, (str,) for a choice; () for no key."""
    hint = _hint(key)
    if get_origin(hint) is Literal:
        return (str,)
    if get_origin(hint) in (None, tuple):
        return () if hint is None else (hint,)
    return get_args(hint)


def choices(key: str) -> tuple[str, ...]:
    """Return the words among which a setting chooses; () for any other setting."""
    hint = _hint(key)
    return get_args(hint) if get_origin(hint) is Literal else ()


def is_text(key: str) -> bool:
    """Whether a setting is a text, which is taken as it was typed: free text or a choice, also where null may be."""
    return bool(kinds(key)) and set(kinds(key)) <= {str, type(None)}


def is_texts(key: str) -> bool:
    """Whether a setting is a list of texts."""
    return kinds(key) == (TEXTS,)


@functools.cache
def derived() -> frozenset[str]:
    """Return the keys whose value follows from others unless it is given."""
    return frozenset(key for key in keys() if _field(key).metadata.get("derived"))


def limits(key: str) -> tuple[float | None, float | None, float | None]:
    """Return the range of a number, as the schema declares it: low <= value <= high, and above < value."""
    metadata = _field(key).metadata
    return metadata.get("low"), metadata.get("high"), metadata.get("above")


def expected(key: str) -> str:
    """Say in words what a setting may be."""
    if choices(key):
        return f"choose one of: {', '.join(choices(key))}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    wanted = [names.get(kind, "a list of texts") for kind in kinds(key)] + ["null"] * (key in derived())
    return f"expected {' or '.join(wanted)}"


def check_key(key: str, value: Any, origin: str) -> None:
    """Refuse a key the schema does not have, with the closest one that it has."""
    if key in keys():
        return
    if key in sections() or key == HOOKS:
        raise mistake_at(origin, f"{key}={value}: {key} is a section", f"write {key}.KEY=VALUE")
    section, _, name = key.partition(".")
    if section in sections():
        inner = f"{section}.{name.partition('.')[0]}"
        section, name = (inner, name.partition(".")[2]) if inner in sections() else (section, name)
        cause, wrong = f"no key '{name}' in {section}", name
        names = [known.removeprefix(f"{section}.") for known in keys() if known.startswith(f"{section}.")]
    else:
        cause, names, wrong = (
            f"no section '{section}'",
            sorted({known.partition(".")[0] for known in keys()} | {HOOKS}),
            section,
        )
    close = difflib.get_close_matches(wrong.lower(), names, n=1, cutoff=0.5)
    remedy = f"did you mean '{close[0]}'?" if close else f"it has: {', '.join(names)}"
    raise mistake_at(origin, f"{key}={value}: {cause}", remedy)


def mistake_at(origin: str, cause: str, remedy: str) -> KiaraError:
    """Name the source of a mistake, unless it is what the person has just typed."""
    return KiaraError(cause if origin == "command line" else f"{origin}: {cause}", remedy)


def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


@functools.cache
def _hint(key: str) -> Any:
    hint: Any = Config if key.partition(".")[0] != HOOKS else None
    for name in key.split("."):
        hint = _hints(hint).get(name) if dataclasses.is_dataclass(hint) else None
    return hint


def _field(key: str) -> dataclasses.Field[Any]:
    section, _, name = key.rpartition(".")
    kind = _hint(section) if section else Config
    return {item.name: item for item in dataclasses.fields(kind)}[name]
