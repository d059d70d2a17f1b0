"""From files, variables and KEY=VALUE words to one checked `Config`. The only module that imports OmegaConf.

In: the layers a person wrote, weakest first: YAML or JSON files, `.env`, `KIARA__SECTION__KEY` variables,
`KEY=VALUE` words. Out: `Loaded`: the config, where each value came from, and notices worth showing.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kiara_cli.config.schema import RENAMED, VERSION, Config, ModelConfig
from kiara_cli.config.section import DERIVED, Section
from kiara_cli.config.text import first_line, parse_yaml, read_mapping, write_value
from kiara_cli.errors import KiaraError

AnySection = TypeVar("AnySection", bound=Section)

OVERRIDE = re.compile(r"^[a-z_]+(\.[a-z_0-9]+)+=")
ENV_PREFIX = "KIARA__"
DEFAULT = "default"  # the origin of a value that no layer set
IMPLICIT = Path("configs/default.yaml")


@dataclass(frozen=True)
class Layer:
    """Values from one source, keyed by dotted path."""

    origin: str
    values: Mapping[str, Any]


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
            for key in filter(_is_text, self.values):
                section, _, name = key.partition(".")
                text: dict[str, Any] = {name: self.values[key]}
                config = dataclasses.replace(
                    config, **{section: dataclasses.replace(getattr(config, section), **text)}
                )
        except KiaraError as error:
            source = self.origins.get(error.key or "")
            raise mistake_at(source, error.cause, error.remedy) if source else error from None
        except OmegaConfBaseException as error:
            raise KiaraError(first_line(error), "correct the ${...} reference") from None
        return config


def is_override(word: str) -> bool:
    """Tell a dotted override (`model.n_layers=4`) from a path."""
    return OVERRIDE.match(word) is not None


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
    folder = folder or Path()
    paths = [_find_file(name, folder) for name in files]
    if not paths and (folder / IMPLICIT).is_file():
        paths = [folder / IMPLICIT]
    layers = [Layer(str(path), _flatten(read_mapping(path), str(path))) for path in paths]
    layers += _environment(_read_dotenv(folder / ".env"), ".env: ")
    layers += _environment(environ or {}, "")
    layers.append(Layer("command line", dict(_split_override(word) for word in overrides)))
    loaded = merge(layers)
    if check:
        assert loaded.config
    return loaded


def merge(layers: Iterable[Layer]) -> Loaded:
    """Apply the layers to the schema one value at a time, so that every error names its source."""
    layers = tuple(layers)
    tree = OmegaConf.structured(Config)
    OmegaConf.set_readonly(tree, False)
    for key in _derived():  # what follows from the defaults must not stay when they change
        _update(tree, key, DERIVED)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    notices: list[str] = []
    for layer in layers:
        for written, value in layer.values.items():
            key = RENAMED.get(written, written)
            if key != written:
                notices.append(f"{layer.origin}: {written} is now called {key}")
            _check_version(key, value, layer.origin)
            _check_key(key, value, layer.origin)
            values[key] = _assign(tree, key, _coerce(key, value), layer.origin)
            origins[key] = layer.origin
    return Loaded(layers, values, origins, tuple(notices), tree)


def changes(loaded: Loaded, stored: Config) -> Iterator[Change]:
    """Yield what the layers set on purpose and differently; the implicit configs/default.yaml sets nothing so."""
    for key, origin in loaded.origins.items():
        wanted, kept = loaded.values[key], value_at(stored, key)
        if key in _derived() and wanted == DERIVED:
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
        if _section(change.key) in sections:
            raise mistake_at(
                change.origin,
                f"{change.key}={change.wanted}: but {checkpoint} was made with {change.key}={change.stored}",
                "leave it out, or train a new model with it",
            )
    rest = [
        Layer(layer.origin, {key: value for key, value in layer.values.items() if _section(key) not in sections})
        for layer in loaded.layers
    ]
    config = merge(rest).config
    return dataclasses.replace(config, **{name: getattr(kept, name) for name in sections})


def from_mapping(values: Mapping[str, Any], origin: str, over: Iterable[Layer] = ()) -> Loaded:
    """Check a nested mapping, such as the config inside a checkpoint, and what is laid over it."""
    return merge([Layer(origin, _flatten(values, origin)), *over])


def set_value(section: AnySection, key: str, text: str) -> AnySection:
    """Return a section with one key set from text, checked as a KEY=VALUE word is. Raises KiaraError."""
    path = f"{section.section}.{key}"
    config = merge([Layer("command line", dict([_split_override(f"{path}={text}")]))]).config
    checked: dict[str, Any] = {key: value_at(config, path)}
    return dataclasses.replace(section, **checked)  # type: ignore[type-var]


def value_at(config: Config, key: str) -> Any:
    """Look a dotted key up."""
    return functools.reduce(getattr, key.split("."), cast(Any, config))


def to_mapping(config: Config) -> dict[str, Any]:
    """Turn a config into plain dicts, lists and scalars."""
    return cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def to_yaml(config: Config, origins: Mapping[str, str] | None = None) -> str:
    """Write a config as YAML; with `origins`, each line says in a comment where its value came from."""
    lines, section = [], ""
    for path, value in _flatten(to_mapping(config), DEFAULT).items():
        if "." in path and path.split(".")[0] != section:
            section = path.split(".")[0]
            lines.append(f"{section}:")
        line = f"{'  ' * path.count('.')}{path.split('.')[-1]}: {write_value(value)}"
        lines.append(line if origins is None else f"{line:<36}  # {origins.get(path, DEFAULT)}")
    return "\n".join(lines) + "\n"


@functools.cache
def keys() -> list[str]:
    """List every dotted key of the schema."""
    return list(_flatten(to_mapping(Config()), DEFAULT))


def shipped_configs() -> Path:
    """Return the folder of the configs that came with Kiara (in the wheel, or beside the source)."""
    package = Path(__file__).resolve().parent.parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def _find_file(name: str, folder: Path) -> Path:
    """Find `-c NAME`: a path, a bare name under configs/ here, then the shipped copy."""
    candidates = [folder / name]
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


def _flatten(values: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Turn {'model': {'n_layers': 4}} into {'model.n_layers': 4}."""
    flat: dict[str, Any] = {}
    for section, inner in values.items():
        if isinstance(inner, Mapping):
            flat |= {f"{section}.{key}": value for key, value in inner.items()}
        elif inner is not None or section not in {f.name for f in dataclasses.fields(Config)}:
            flat[str(section)] = inner
    return flat


def _environment(variables: Mapping[str, str], place: str) -> list[Layer]:
    """Make a layer of each KIARA__SECTION__KEY=VALUE, so that an error can name the variable."""
    layers = []
    for variable, text in sorted(variables.items()):
        if variable.startswith(ENV_PREFIX):
            key = variable.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            layers.append(Layer(place + variable, {key: _parse_value(key, text)}))
    return layers


def _read_dotenv(path: Path) -> dict[str, str]:
    """Read KEY=VALUE lines; `export`, quotes and # comments as in a shell."""
    if not path.is_file():
        return {}
    variables = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if not equals or name.startswith("#"):
            continue
        value = value.strip()
        if value[:1] in {'"', "'"} and value.find(value[0], 1) > 0:
            value = value[1 : value.find(value[0], 1)]
        else:
            value = re.split(r"(?:^|\s)#", value)[0].rstrip()
        variables[name.strip()] = value
    return variables


def _split_override(word: str) -> tuple[str, Any]:
    key, _, text = word.partition("=")
    return key, _parse_value(key, text)


def _parse_value(key: str, text: str) -> Any:
    """Read a value as YAML, unless the setting is a text, which is taken as it stands."""
    if _types(key) and set(_types(key)) <= {str, type(None)}:
        return None if text == "null" and type(None) in _types(key) else text
    if _types(key) == (tuple[str, ...],) and not text.startswith("["):
        return [text]
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return text


@functools.cache
def _types(key: str) -> tuple[Any, ...]:
    """Return the types a setting may have: (int, NoneType) for `int | None`; () for an unknown key."""
    section, _, name = key.partition(".")
    hints = get_type_hints(Config)
    if not name:
        return (hints[section],) if section in hints else ()
    hint = get_type_hints(hints[section]).get(name) if section in hints else None
    if hint is None:
        return ()
    if get_origin(hint) is Literal:
        return (str,)
    return get_args(hint) if get_origin(hint) not in (None, tuple) else (hint,)


def _section(key: str) -> str:
    return RENAMED.get(key, key).split(".")[0]


@functools.cache
def _is_text(key: str) -> bool:
    """Whether a setting is free text, which is taken as it stands: `${` and `???` mean nothing in it."""
    return "." in key and not _choices(key) and set(_types(key)) <= {str, type(None), tuple[str, ...]}


def _coerce(key: str, value: Any) -> Any:
    """Accept 1e4 and "4" where a whole number is asked for, one word where a list is, null for what is derived."""
    if value is None and key in _derived():
        return DERIVED
    if key == "version" and isinstance(value, int):
        return VERSION  # older keys are migrated as they are read
    if isinstance(value, str) and int in _types(key) and re.fullmatch(r"\s*\d+\s*", value):
        return int(value)
    if isinstance(value, float) and value.is_integer() and int in _types(key) and float not in _types(key):
        return int(value)
    if isinstance(value, str) and _types(key) == (tuple[str, ...],):
        return [value]
    return value


def _check_version(key: str, value: Any, origin: str) -> None:
    if key == "version" and isinstance(value, int) and value > VERSION:
        raise mistake_at(
            origin, f"version={value}: this Kiara knows configs up to version {VERSION}", "update kiara-slm"
        )


def _check_key(key: str, value: Any, origin: str) -> None:
    """Refuse a key the schema does not have, with the closest one that it has."""
    if key in keys():
        return
    section, _, name = key.partition(".")
    sections = {known.split(".")[0] for known in keys()}
    if section in sections and not name:
        raise mistake_at(origin, f"{key}={value}: {key} is a section", f"write {key}.KEY=VALUE")
    if section not in sections:
        cause, names, wrong = f"no section '{section}'", sorted(sections), section
    else:
        cause, wrong = f"no key '{name}' in {section}", name
        names = [known.partition(".")[2] for known in keys() if known.startswith(f"{section}.")]
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    remedy = f"did you mean '{close[0]}'?" if close else f"it has: {', '.join(names)}"
    raise mistake_at(origin, f"{key}={value}: {cause}", remedy)


def _assign(tree: Any, key: str, value: Any, origin: str) -> Any:
    """Put a value into the tree and return it in the setting's type; texts with ${ or ??? in them stay outside."""
    syntax = any("${" in text or text == "???" for text in (value if isinstance(value, list) else [str(value)]))
    if syntax and _is_text(key) and isinstance(value, str | list):
        return tuple(value) if isinstance(value, list) else value
    try:
        _update(tree, key, value)
        assigned = value if syntax else OmegaConf.select(tree, key)
        return tuple(assigned) if isinstance(value, list) else assigned
    except (OmegaConfBaseException, ValueError, TypeError):
        kinds = (*_types(key), type(None)) if key in _derived() else _types(key)
        wanted = " or ".join(_plain_name(kind) for kind in kinds)
        remedy = f"choose one of: {_choices(key)}" if _choices(key) else f"expected {wanted}"
        raise mistake_at(origin, f"{key}={value} is not a valid value", remedy) from None


def _update(tree: Any, key: str, value: Any) -> None:
    """Put a value into the tree, of which the sections are read-only as the dataclasses are."""
    if "." in key:
        OmegaConf.set_readonly(tree[key.split(".")[0]], False)
    OmegaConf.update(tree, key, value)


@functools.cache
def _derived() -> frozenset[str]:
    """Return the keys whose value follows from others unless it is given."""
    return frozenset(f"model.{item.name}" for item in dataclasses.fields(ModelConfig) if item.metadata.get("derived"))


def _choices(key: str) -> str:
    section, _, name = key.partition(".")
    hint = get_type_hints(get_type_hints(Config)[section]).get(name) if name else None
    return ", ".join(get_args(hint)) if get_origin(hint) is Literal else ""


def _plain_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(kind, "a list of texts")


def mistake_at(origin: str, cause: str, remedy: str) -> KiaraError:
    """Name the source of a mistake, unless it is what the person has just typed."""
    return KiaraError(cause if origin == "command line" else f"{origin}: {cause}", remedy)
