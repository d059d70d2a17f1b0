"""YAML and JSON text to plain values and back; numbers like 1e-3 are numbers.

In: a file, or a piece of text. Out: dicts, lists and scalars; or a value as one line of YAML.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any, cast

import yaml

from kiara_cli.errors import KiaraError


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file that holds a mapping. Raises KiaraError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KiaraError(f"cannot read the config {path}: {error}", "give a YAML or JSON text file") from None
    try:
        # JSON is read by its own parser: `1e-3` is a number there and a word in YAML 1.1.
        values = json.loads(text) if path.suffix == ".json" else parse_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        raise KiaraError(
            f"{path} does not parse: {first_line(error)}", "see configs/default.yaml for the form"
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
    if re.fullmatch(r"[\w./-]*[A-Za-z_/]", value) and parse_yaml(value) == value:
        return value
    return yaml.safe_dump(value, default_style='"', width=float("inf"), allow_unicode=True).rstrip("\n")


def parse_yaml(text: str) -> Any:
    """Parse YAML with numbers like 1e-3 read as numbers."""
    return yaml.load(text, Loader=_loader())


@functools.cache
def _loader() -> type[yaml.SafeLoader]:
    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?([eE][-+]?\d+)$|^[-+]?\d[\d_]*\.\d*$|^[-+]?\.\d+([eE][-+]?\d+)?$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    return Loader


def first_line(error: Exception) -> str:
    """Return what an error says, in brief."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
