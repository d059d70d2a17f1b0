"""What the Tab key offers: names of runs, checkpoints, corpora, configs, indexes and data folders, and settings.

In: the word that is being typed, and the working folder. Out: words that begin so, each with a line about it. Nothing
is opened but folders, so that it takes no time; where a path is being typed, the shell completes it itself.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import typer

from kiara_cli.config.keys import choices, keys, kinds
from kiara_cli.config.layers import shipped_configs
from kiara_cli.config.schema import Config
from kiara_cli.config.text import write_value

VARIABLE = "_KIARA_COMPLETE"  # set by the shell's function while it asks
CORPORA = ("tales", "python", "tinyshakespeare", "tinystories", "fineweb-edu-sample")
CHECKPOINTS = ("checkpoints", "models", "trained_models")
SUFFIXES = (".pt", ".safetensors")

Found = list[tuple[str, str]]


def answer(app: typer.Typer) -> None:
    """Tell the shell what may stand where its cursor is, and exit.

    bash takes `model.n_layers=4` for three words and replaces the last one alone: they are joined here, and what
    stands before the last `=` is taken off what is offered.
    """
    said, before = io.StringIO(), ""
    if os.environ[VARIABLE] == "complete_bash":
        before = _join_settings()
    try:
        with contextlib.redirect_stdout(said):
            app(prog_name="kiara")
    finally:
        lines = said.getvalue().splitlines()
        sys.stdout.write("\n".join(line.removeprefix(before) for line in lines))


def _join_settings() -> str:
    """Put the words of bash together again; return what it will leave standing before the one it completes."""
    words = os.environ.get("COMP_WORDS", "").split("\n")
    words = words[: int(os.environ.get("COMP_CWORD", len(words))) + 1]
    joined = "\n".join(words).replace("\n=\n", "=").replace("\n=", "=").split("\n")
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(joined), str(len(joined) - 1)
    return joined[-1][: joined[-1].rfind("=") + 1]


def checkpoints(incomplete: str) -> Found:
    """Offer what may be given for CHECKPOINT: runs by their names, and files."""
    return _beginning(incomplete, _checkpoints())


def checkpoints_or_settings(incomplete: str) -> Found:
    """Offer the same, and settings."""
    return _beginning(incomplete, _checkpoints(), _settings(incomplete))


def texts_or_settings(incomplete: str) -> Found:
    """Offer what `kiara train` and `kiara tokenize` take: corpora, data folders that are there, and settings."""
    return _beginning(incomplete, _corpora(), _folders("data", "meta.json", "prepared data"), _settings(incomplete))


def settings(incomplete: str) -> Found:
    """Offer settings alone."""
    return _beginning(incomplete, _settings(incomplete))


def runs(incomplete: str) -> Found:
    """Offer the names of runs."""
    return _beginning(incomplete, _folders("checkpoints", "run.json", "a run"))


def configs(incomplete: str) -> Found:
    """Offer what `-c` finds by its bare name."""
    return _beginning(incomplete, _configs())


def indexes(incomplete: str) -> Found:
    """Offer the names of indexes."""
    return _beginning(incomplete, _folders("data/index", "meta.json", "an index"))


def _beginning(incomplete: str, *sources: Iterable[tuple[str, str]]) -> Found:
    """Return what begins with the word; with files of the same beginning, which the shell would then not show."""
    offered = {word: about for source in sources for word, about in source if word.startswith(incomplete)}
    if offered and incomplete and "=" not in incomplete and "/" not in incomplete:
        for path in sorted(Path().glob(f"{_literally(incomplete)}*")):
            offered.setdefault(f"{path}/" if path.is_dir() else str(path), "")
    return list(offered.items())


def _literally(word: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in word)


def _checkpoints() -> Iterator[tuple[str, str]]:
    for place in CHECKPOINTS:
        for name in _names(Path(place), "*.pt", "*.safetensors"):
            yield name, f"the best of {place}/{name}"
    for place in (*CHECKPOINTS, "."):
        for path in _sorted(Path(place)):
            if path.suffix in SUFFIXES:
                yield str(path), "a checkpoint"


def _corpora() -> Iterator[tuple[str, str]]:
    for name in CORPORA:
        yield name, "a corpus"


def _folders(place: str, inside: str, about: str) -> Iterator[tuple[str, str]]:
    for name in _names(Path(place), inside):
        yield (f"{place}/{name}" if place == "data" else name), about


def _configs() -> Iterator[tuple[str, str]]:
    for folder in (Path("configs"), shipped_configs()):
        for path in _sorted(folder):
            if path.suffix == ".yaml":
                yield path.stem, ""


def _settings(incomplete: str) -> Iterator[tuple[str, str]]:
    """Offer keys; and of a key that is written out, or can be no other, the values too, so that no space follows."""
    if not incomplete:
        for name in dict.fromkeys(key.partition(".")[0] for key in keys() if "." in key):
            yield f"{name}.", "settings"
        return
    matching = [key for key in keys() if "." in key and f"{key}=".startswith(incomplete.partition("=")[0])]
    for key in matching:
        if "=" not in incomplete:
            yield f"{key}=", ""
        if len(matching) == 1 or incomplete.startswith(f"{key}="):
            for value in _values(key):
                yield f"{key}={value}", ""


def _values(key: str) -> list[str]:
    """List values that a setting may have: its choices, or its default."""
    if found := list(choices(key)):
        return found
    if bool in kinds(key):
        return ["true", "false", *(["auto"] if str in kinds(key) else [])]
    value: object = Config()
    for name in key.split("."):
        value = getattr(value, name)
    return [write_value(list(value) if isinstance(value, tuple) else value)]


def _names(place: Path, *inside: str) -> list[str]:
    """List folders in a place that hold a file of such a name, without reading any."""
    return [path.name for path in _sorted(place) if path.is_dir() and any(any(path.glob(one)) for one in inside)]


def _sorted(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []
