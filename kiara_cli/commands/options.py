"""The words and options that commands share, and what they mean."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from kiara_cli.commands import completion
from kiara_cli.config.layers import check_word, is_override, split_override
from kiara_cli.config.load import Loaded, load_config
from kiara_cli.config.schema import RENAMED, Config, LoggingConfig
from kiara_cli.config.uses import LOG, unused
from kiara_cli.errors import KiaraError

ConfigFiles = Annotated[
    list[str] | None,
    typer.Option(
        "-c",
        "--config",
        metavar="FILE",
        help="A config file, or the name of a shipped one; may be repeated.",
        autocompletion=completion.configs,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out and count what cannot be read, instead of stopping.")
]
HookFiles = Annotated[
    list[str] | None,
    typer.Option("--hooks", metavar="FILE.py", help="Run this file of your own hooks; may be repeated."),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CHECKPOINT] [KEY=VALUE]...",
        help="A checkpoint, and settings such as model.n_layers=4.",
        autocompletion=completion.checkpoints_or_settings,
    ),
]

DATA_ROOT = Path("data")
RUNS_ROOT = Path("checkpoints")


@dataclass(frozen=True)
class Given:
    """What stood on the command line: at most one path or name, and the config it and its layers make."""

    word: str | None
    loaded: Loaded
    more: tuple[str, ...] = ()  # further ones, where several are welcome


def read(
    words: Iterable[str] | None, config: list[str] | None, several: bool = False, command: str | None = None
) -> Given:
    """Tell paths from overrides and load the config; how its values go together is checked when it is used.

    An override that the `command` does not read is said. Raises KiaraError for several paths where one is wanted.
    """
    words = list(words or ())
    overrides = [word for word in words if is_override(word) and not names_file(word)]
    others = [word for word in words if word not in overrides]
    for word in others:
        check_word(word)
    if len(others) > 1 and not several:
        raise KiaraError(
            f"more than one path or name: {' '.join(others)}",
            "give one; settings are written KEY=VALUE, such as train.max_steps=100",
        )
    loaded = load_config(config or (), overrides, os.environ, check=False)
    from kiara_cli.console import logs, output

    for notice in loaded.notices:
        output.note(notice)
    logs.start_logging(log_settings(loaded))
    typed = [RENAMED.get(key, key) for key, _ in map(split_override, overrides)]
    if command is not None and (idle := unused(command, typed)):
        output.warn(f"{' and '.join(idle)} {'is' if len(idle) == 1 else 'are'} not used by kiara {command}")
    return Given(others[0] if others else None, loaded, tuple(others[1:]))


def log_settings(loaded: Loaded) -> LoggingConfig:
    """Return the settings of the log, before it is known how all values go together. Raises KiaraError."""
    typed = {key.partition(".")[2]: value for key, value in loaded.values.items() if key in LOG}
    try:
        return LoggingConfig(**typed)
    except KiaraError:
        return loaded.config.logging  # which names the source of the mistake


def names_file(word: str) -> bool:
    """Tell a file such as notes.v2=final.txt from a setting: it is there, and no section has that name."""
    return word.split(".")[0] not in {section.name for section in dataclasses.fields(Config)} and os.path.exists(word)


def with_source(given: Given, config: Config) -> Config:
    """Put the paths from the command line into the config."""
    if given.word is None:
        return config
    data = dataclasses.replace(config.data, source=given.word, sources=given.more)
    return dataclasses.replace(config, data=data)
