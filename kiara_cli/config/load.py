"""From layers of values to one checked `Config`. The only module that imports OmegaConf.

In: the layers a person wrote (`layers`), weakest first. Out: `Loaded`: the config, where each value came from, and
notices worth showing.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kiara_cli.config import hooks
from kiara_cli.config.keys import check_key, choices, derived, expected, is_text, is_texts, kinds, mistake_at
from kiara_cli.config.layers import IMPLICIT, Layer, flatten, read_layers, split_override
from kiara_cli.config.schema import RENAMED, VERSION, Config
from kiara_cli.config.section import DERIVED, Section
from kiara_cli.config.text import Plain, first_line, meant, shown, write_value
from kiara_cli.errors import KiaraError

AnySection = TypeVar("AnySection", bound=Section)

DEFAULT = "default"  # the origin of a value that no layer set
TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Change:
    """A setting that a layer wants to be other than what a checkpoint stored."""

    key: str
    origin: str
    wanted: Any
    stored: Any


@dataclass(frozen=True)
class Loaded:
    """The merged layers: the value and the origin of each dotted key that one set, and notices for the person.

    `config` checks how the values go together. A command that takes part of them from a checkpoint asks for it only
    after that, through `adopt`.
    """

    layers: tuple[Layer, ...]
    values: Mapping[str, Any]
    origins: Mapping[str, str]
    notices: tuple[str, ...]
    _tree: Any = field(repr=False)

    @functools.cached_property
    def config(self) -> Config:
        """Return the checked config. Raises KiaraError naming the source of a broken constraint."""
        try:
            config = cast(Config, OmegaConf.to_object(self._tree))
            config = dataclasses.replace(config, hooks=hooks.nested(self.values))
            assert isinstance(hooks.hooks_of(config.hooks), list)  # which checks how they go together
            for key in filter(_is_free, self.values):
                config = _replaced(config, key.split("."), self.values[key])
        except KiaraError as error:
            known = (origin for key, origin in self.origins.items() if key.startswith(f"{error.key}."))
            source = self.origins.get(error.key or "") or next(known, None)
            raise mistake_at(source, error.cause, error.remedy) if source else error from None
        except OmegaConfBaseException as error:
            raise KiaraError(first_line(error), "correct the ${...} reference") from None
        return config


def load_config(
    files: Iterable[str] = (),
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    check: bool = True,
) -> Loaded:
    """Merge all layers, weakest first, and check the result; with `check=False`, only each value by itself.

    Without files, `configs/default.yaml` under `folder` is read where it exists. Raises KiaraError naming the
    source of an unknown key, a wrong type or a broken constraint.
    """
    loaded = merge(read_layers(files, overrides, environ or {}, folder or Path()))
    if check:
        assert loaded.config
    return loaded


def merge(layers: Iterable[Layer]) -> Loaded:
    """Apply the layers to the schema one value at a time, so that every error names its source."""
    layers = tuple(layers)
    tree = OmegaConf.structured(Config)
    OmegaConf.set_readonly(tree, False)
    for key in derived():  # what follows from the defaults must not stay when they change
        _update(tree, key, DERIVED)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    notices: list[str] = []
    for layer in layers:
        for written, value in layer.values.items():
            key = RENAMED.get(written, written)
            if key != written:
                notices.append(f"{layer.origin}: {written} is now called {key}")
            if section_of(key) == hooks.SECTION:
                try:
                    hooks.put(values, origins, key, value, layer.origin)
                except KiaraError as error:
                    raise mistake_at(layer.origin, error.cause, error.remedy) from None
                continue
            check_key(key, value, layer.origin)
            values[key] = _assign(tree, key, _coerce(key, value, layer.origin), layer.origin)
            origins[key] = layer.origin
    return Loaded(layers, values, origins, tuple(notices), tree)


def changes(loaded: Loaded, stored: Config) -> Iterator[Change]:
    """Yield what the layers set on purpose and differently; the implicit configs/default.yaml sets nothing so."""
    for key, origin in loaded.origins.items():
        wanted, kept = loaded.values[key], value_at(stored, key)
        if key in derived() and wanted == DERIVED:
            wanted = stored.model.derived_values()[key.partition(".")[2]]
        if wanted != kept and origin != str(IMPLICIT):
            yield Change(key, origin, wanted, kept)


def adopt(loaded: Loaded, stored: Mapping[str, Any], sections: Iterable[str], checkpoint: str) -> Config:
    """Return the config with `sections` replaced by what a checkpoint stored.

    Raises KiaraError for a value that differs from the stored one.
    """
    sections = set(sections)
    kept = from_mapping(stored, checkpoint).config
    for change in changes(loaded, kept):
        if section_of(change.key) in sections and change.wanted is not None:  # null: not given
            wanted, fixed = (f"{change.key}={shown(value)}" for value in (change.wanted, change.stored))
            raise mistake_at(
                change.origin,
                f"{wanted}: but {checkpoint} was made with {fixed}",
                "leave it out, or train a new model with it",
            )
    rest = [
        Layer(layer.origin, {key: value for key, value in layer.values.items() if section_of(key) not in sections})
        for layer in loaded.layers
    ]
    config = merge(rest).config
    return dataclasses.replace(config, **{name: getattr(kept, name) for name in sections})


def from_mapping(values: Mapping[str, Any], origin: str, over: Iterable[Layer] = ()) -> Loaded:
    """Check a nested mapping, such as the config inside a checkpoint, and what is laid over it."""
    return merge([Layer(origin, flatten(values, origin)), *over])


def set_value(section: AnySection, key: str, text: str) -> AnySection:
    """Return a section with one key set from text, checked as a KEY=VALUE word is. Raises KiaraError."""
    path = f"{section.section}.{key}"
    config = merge([Layer("command line", dict([split_override(f"{path}={text}")]))]).config
    checked: dict[str, Any] = {key: value_at(config, path)}
    return dataclasses.replace(section, **checked)  # type: ignore[type-var]


def value_at(config: Config, key: str) -> Any:
    """Look a dotted key up."""
    if section_of(key) == hooks.SECTION:
        return hooks.value_at(config.hooks, key)
    return functools.reduce(getattr, key.split("."), cast(Any, config))


def to_mapping(config: Config) -> dict[str, Any]:
    """Turn a config into plain dicts, lists and scalars."""
    return cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def to_yaml(config: Config, origins: Mapping[str, str] | None = None) -> str:
    """Write a config as YAML; with `origins`, each line says in a comment where its value came from."""
    lines: list[str] = []
    opened: list[str] = []
    for path, value in flatten(to_mapping(config), DEFAULT).items():
        *outer, name = path.split(".")
        for depth in range(len(outer)):
            if outer[: depth + 1] != opened[: depth + 1]:
                lines.append(f"{'  ' * depth}{outer[depth]}:")
        opened = outer
        line = f"{'  ' * len(outer)}{name}: {write_value(value)}"
        lines.append(line if origins is None else f"{line:<36}  # {origins.get(path, DEFAULT)}")
    return "\n".join(lines) + "\n"


def section_of(key: str) -> str:
    """Return the section of a key, by its name of today."""
    return RENAMED.get(key, key).partition(".")[0]


def _replaced(section: Any, names: list[str], value: Any) -> Any:
    """Return a section with one value exchanged, however deep it lies."""
    name, *rest = names
    return dataclasses.replace(section, **{name: _replaced(getattr(section, name), rest, value) if rest else value})


def _is_free(key: str) -> bool:
    """Whether a setting is free text, in which `${` and `???` mean nothing."""
    return (is_text(key) and not choices(key)) or is_texts(key)


def _coerce(key: str, value: Any, origin: str) -> Any:
    """Read a value as its setting's type says: texts as typed, 1e4 and "4" as whole numbers, no as false."""
    if isinstance(value, dict) and key == "data.sources":  # a mapping from sources to weights
        value = [f"{name}@{weight}" for name, weight in value.items()]
    if isinstance(value, list) and is_texts(key):
        return [_text(key, item, origin) for item in value]
    value = value.typed if isinstance(value, Plain) and (is_text(key) or is_texts(key)) else meant(value)
    if value is None and key in derived():
        return DERIVED
    if isinstance(value, bool) and is_text(key):
        return json.dumps(value)  # of a JSON file
    if key == "version" and isinstance(value, int):
        return _version(value, origin)
    if isinstance(value, str) and is_texts(key):
        return [value]
    if isinstance(value, str) and int in kinds(key) and re.fullmatch(r"\s*\d{1,20}\s*", value):
        return int(value)
    if isinstance(value, str) and bool in kinds(key):
        return TRUTHS.get(value.lower(), value)
    if isinstance(value, float) and value.is_integer() and int in kinds(key) and float not in kinds(key):
        return int(value)
    return value


def _text(key: str, item: Any, origin: str) -> str:
    """Return an item of a list of texts. Raises KiaraError for what YAML reads as something else."""
    if not isinstance(item, str):
        remedy = "write a list of texts" if isinstance(item, list | dict) else f'put it in quotes: ["{shown(item)}"]'
        raise mistake_at(origin, f"{key}: {shown(item)} in a list of texts is not a text", remedy)
    return item


def _version(value: int, origin: str) -> int:
    """Return today's version for that of a file, whose older keys are migrated as they are read."""
    if value > VERSION:
        raise mistake_at(
            origin, f"version={value}: this Kiara knows configs up to version {VERSION}", "update kiara-slm"
        )
    return VERSION


def _assign(tree: Any, key: str, value: Any, origin: str) -> Any:
    """Put a value into the tree and return it in the setting's type; texts with ${ or ??? in them stay outside."""
    syntax = any("${" in text or text == "???" for text in (value if isinstance(value, list) else [str(value)]))
    if syntax and _is_free(key) and isinstance(value, str | list):
        return tuple(value) if isinstance(value, list) else value
    try:
        _update(tree, key, value)
        assigned = value if syntax else OmegaConf.select(tree, key)
        return tuple(assigned) if isinstance(value, list) else assigned
    except (OmegaConfBaseException, ValueError, TypeError, OverflowError):
        raise mistake_at(origin, f"{key}={shown(value)} is not a valid value", expected(key)) from None


def _update(tree: Any, key: str, value: Any) -> None:
    """Put a value into the tree, of which the sections are read-only as the dataclasses are."""
    node = tree
    for name in key.split(".")[:-1]:
        node = node[name]
        OmegaConf.set_readonly(node, False)
    OmegaConf.update(tree, key, value)
