"""What a person wrote to layers of values, weakest first: config files, `.env`, variables, KEY=VALUE words.

In: names of files, the environment, words of the command line. Out: a `Layer` for each source, with the values as
they were typed (`text.Plain`): which type a value has is for its setting to say.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from kiara_cli.config import hooks
from kiara_cli.config.folders import expanded
from kiara_cli.config.keys import is_text, is_texts, keys, kinds, mistake_at, sections
from kiara_cli.config.schema import RENAMED
from kiara_cli.config.text import parse_value, read_mapping, read_text
from kiara_cli.errors import KiaraError

OVERRIDE = re.compile(r"^[a-z_]+(\.[a-z_0-9]+)+=", re.IGNORECASE)
ENV_PREFIX = "KIARA__"
IMPLICIT = Path("configs/default.yaml")


@dataclass(frozen=True)
class Layer:
    """Values from one source, keyed by dotted path."""

    origin: str
    values: Mapping[str, Any]


def read_layers(
    files: Iterable[str], overrides: Iterable[str], environ: Mapping[str, str], folder: Path
) -> list[Layer]:
    """Read all layers; without files, `configs/default.yaml` under `folder` where there is one. Raises KiaraError."""
    paths = [find_file(name, folder) for name in files]
    if not paths and (folder / IMPLICIT).is_file():
        paths = [folder / IMPLICIT]
    layers = [Layer(str(path), flatten(read_mapping(path), str(path))) for path in paths]
    layers += _environment(read_dotenv(folder / ".env"), ".env: ")
    layers += _environment(environ, "")
    return [*layers, Layer("command line", dict(split_override(word) for word in overrides))]


def is_override(word: str) -> bool:
    """Tell a dotted override (`model.n_layers=4`), also of a key that there is not, from a path.

    A file whose name looks like one of no section (`my.notes=1.txt`) is a path.
    """
    if OVERRIDE.match(word) is None:
        return False
    section = word.partition(".")[0]
    known = any(key.startswith(f"{section.lower()}.") for key in keys())
    return known or (section.islower() and not Path(word).exists())


def check_word(word: str) -> None:
    """Refuse a word that sets something without naming its section, such as `lr=0.1`, unless it is a file."""
    name, equals, value = word.partition("=")
    meant = [key for key in keys() if key.endswith(f".{name.lower()}")]
    if equals and meant and not Path(word).exists():
        raise KiaraError(
            f"{word}: settings are written SECTION.KEY=VALUE",
            f"did you mean {' or '.join(f'{key}={value}' for key in meant)}?",
        )


def split_override(word: str) -> tuple[str, Any]:
    """Split KEY=VALUE and read the value."""
    key, _, text = word.partition("=")
    return key, _read_value(key, text)


def find_file(name: str, folder: Path) -> Path:
    """Find `-c NAME`: a path, a bare name under configs/ here, then the shipped copy. Raises KiaraError."""
    candidates = [folder / expanded(name)]
    if "/" not in name and Path(name).suffix not in {".yaml", ".yml", ".json"}:
        candidates += [folder / "configs" / f"{name}.yaml", shipped_configs() / f"{name}.yaml"]
    for path in candidates:
        if path.is_file():
            return path
    shipped = sorted(path.stem for path in shipped_configs().glob("*.yaml"))
    raise KiaraError(
        f"no config {name} (looked at {', '.join(map(str, candidates))})",
        f"give a file, or one of: {', '.join(shipped)}",
    )


def shipped_configs() -> Path:
    """Return the folder of the configs that came with Kiara (in the wheel, or beside the source)."""
    package = Path(__file__).resolve().parent.parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def flatten(values: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Turn {'model': {'n_layers': 4}} into {'model.n_layers': 4}. Raises KiaraError for a key that is set twice."""
    flat: dict[str, Any] = {}

    def add(prefix: str, inner: Mapping[str, Any]) -> None:
        for name, value in inner.items():
            key = f"{prefix}{name}"
            if key == hooks.SECTION and isinstance(value, Mapping | None):
                add("", dict(hooks.settings(value)))
            elif key in sections() and (value is None or isinstance(value, Mapping)):
                add(f"{key}.", value or {})
            elif not prefix and isinstance(value, Mapping) and "." not in key:  # said where its keys are checked
                add(f"{key}.", value)
            elif key in flat:
                raise mistake_at(origin, f"{key} is set twice", "keep one of the two")
            else:
                flat[key] = value

    add("", values)
    return flat


def _environment(variables: Mapping[str, str], place: str) -> list[Layer]:
    """Make a layer of each KIARA__SECTION__KEY=VALUE, so that an error can name the variable."""
    layers = []
    for variable, text in sorted(variables.items()):
        if variable.upper().startswith(ENV_PREFIX):
            key = variable[len(ENV_PREFIX) :].lower().replace("__", ".")
            layers.append(Layer(place + variable, {key: _read_value(key, text)}))
    return layers


def read_dotenv(path: Path) -> dict[str, str]:
    """Read a `.env` as python-dotenv does: `export`, quotes, escapes and comments; `${NAME}` stays what it is."""
    if not path.is_file():
        return {}
    found = dotenv_values(stream=io.StringIO(read_text(path, errors="replace")), interpolate=False)
    return {name: value for name, value in found.items() if value is not None}


def _read_value(key: str, text: str) -> Any:
    """Read a value as YAML, unless the setting is a text, which is taken as it stands."""
    key = RENAMED.get(key, key)
    if is_text(key):
        return None if text == "null" and type(None) in kinds(key) else text
    if is_texts(key) and not text.startswith("["):
        return [text]
    value = parse_value(text)
    if is_texts(key) and value == text and text.endswith("]"):  # a shell eats the quotes of ["*"]: [*] is no YAML
        return [part.strip() for part in text[1:-1].split(",")]
    return value
