"""YAML and JSON text to plain values and back.

In: a file, or a piece of text. Out: dicts, lists and scalars; or a value as one line of YAML.

YAML is read by the rules of YAML 1.2: only `true` and `false` are truth values, a number is decimal (`010` is ten;
`0o17` and `0x1f` are octal and hexadecimal), with or without an exponent (`1e-3`), and `no`, `off`, `12:30` and
`2024-01-01` are texts. `1_000_000` is a number as well. A number or truth value without quotes becomes `Plain`, which
keeps what was typed, for settings that are texts. A key that stands twice in a mapping is refused.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.constructor import ConstructorError

from kiara_cli.errors import KiaraError

MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # the longer ones first
LONGEST = 40  # digits of a whole number: Python reads and writes no more than 4,300
UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)  # too long a number is a ValueError


class Repeated(yaml.YAMLError):
    """A key stands twice in a mapping."""


@dataclass(frozen=True)
class Plain:
    """A number or truth value without quotes: what was typed, and what it means."""

    typed: str
    value: bool | int | float

    def __str__(self) -> str:
        return self.typed


def _whole(typed: str) -> Plain:
    if len(typed) > LONGEST:
        raise ValueError(f"a number of {len(typed)} digits")
    return Plain(typed, int(typed, 0 if typed[1:2] in {"o", "x"} else 10))


def _number(typed: str) -> Plain:
    return Plain(typed, float(re.sub(r"\.(?=inf|nan)", "", typed.lower().replace("_", ""))))


DIGITS = r"[0-9]+(?:_[0-9]+)*"
# Tag → what it looks like without quotes, and how it is read; the first that fits counts.
PLAIN: dict[str, tuple[str, Callable[[str], Plain | None]]] = {
    "null": ("~|null|Null|NULL|", lambda typed: None),
    "bool": ("true|True|TRUE|false|False|FALSE", lambda typed: Plain(typed, typed.lower() == "true")),
    "int": (rf"[-+]?{DIGITS}|0o[0-7]+|0x[0-9a-fA-F]+", _whole),
    "float": (
        rf"[-+]?(?:{DIGITS}(?:\.(?:{DIGITS})?)?|\.{DIGITS})(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        _number,
    ),
}
TAG = "tag:yaml.org,2002:"


def meant(value: Any) -> Any:
    """Return what a parsed value means, without what was typed."""
    if isinstance(value, Plain):
        return value.value
    if isinstance(value, list):
        return [meant(item) for item in value]
    return {key: meant(item) for key, item in value.items()} if isinstance(value, dict) else value


def read_text(path: Path, errors: str = "strict") -> str:
    """Read a text file in UTF-8, or as its byte order mark says; the mark is no part of the text."""
    data = path.read_bytes()
    encoding = next(
        ("utf-32" if len(mark) == 4 else "utf-16" for mark in MARKS if data.startswith(mark)), "utf-8-sig"
    )
    return data.decode(encoding, errors)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file that holds a mapping. Raises KiaraError."""
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise KiaraError(f"cannot read the config {path}: {error}", "give a YAML or JSON text file") from None
    try:
        values = _parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except Repeated as error:
        raise KiaraError(f"{path}: {error}", "keep one of the two") from None
    except UNREADABLE as error:
        raise KiaraError(
            f"{path} does not parse: {_reason(error)}", "see configs/default.yaml for the form"
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise KiaraError(
            f"{path} holds {type(values).__name__}, not sections",
            "write `model:` and, below it, `n_layers: 4`",
        )
    return cast(dict[str, Any], values)


def write_value(value: Any) -> str:
    """Write a value on one line, so that YAML reads the same value back."""
    if isinstance(value, list):
        return f"[{', '.join(map(write_value, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    if re.fullmatch(r"[\w./-]*[A-Za-z_/]", value) and yaml.safe_load(value) == parse_yaml(value) == value:
        return value  # without quotes also where YAML 1.1 is read
    return yaml.safe_dump(value, default_style='"', width=float("inf"), allow_unicode=True).rstrip("\n")


def shown(value: Any) -> str:
    """Return a value as a message names it: null, true and false as in YAML."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def parse_value(text: str) -> Any:
    """Read a piece of YAML, or take it as it stands where it is none."""
    try:
        return parse_yaml(text)
    except UNREADABLE:
        return text


def parse_yaml(text: str) -> Any:
    """Parse YAML 1.2. Raises one of UNREADABLE."""
    return yaml.load(text, Loader=Loader)


def first_line(error: Exception) -> str:
    """Return what an error says, in brief."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _reason(error: Exception) -> str:
    """Return what a parser found wrong, with the line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else first_line(error)


def _parse_json(text: str) -> Any:
    """Parse JSON by its own parser: YAML's takes no tabs, and no pairs of surrogates for a character."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise Repeated(f"'{key}' stands there twice")
            seen[key] = value
        return seen

    return json.loads(
        text,
        object_pairs_hook=once,
        parse_int=_whole,
        parse_float=_number,
    )


class Loader(yaml.SafeLoader):
    """PyYAML's parser with YAML 1.2's rules for what is not in quotes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a key that stands twice; take keys as texts."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(problem="a key must be a word", problem_mark=key.start_mark)
            line = key.start_mark.line + 1
            if key.value in lines and key.value != "<<":
                raise Repeated(f"'{key.value}' stands on line {lines[key.value]} and again on line {line}")
            lines[key.value] = line
            if key.tag.removeprefix(TAG) in PLAIN:
                key.tag = f"{TAG}str"
        return super().construct_mapping(node, deep)

    def construct_plain(self, node: yaml.ScalarNode) -> Plain | None:
        _, read = PLAIN[node.tag.removeprefix(TAG)]
        return read(node.value)


Loader.yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}  # of 1.1 merge keys alone
for _name, (_pattern, _) in PLAIN.items():
    Loader.add_implicit_resolver(TAG + _name, re.compile(f"^(?:{_pattern})$"), None)
    Loader.add_constructor(TAG + _name, Loader.construct_plain)
