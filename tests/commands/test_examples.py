"""The examples at the end of every --help."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from kiara_cli.app import app
from kiara_cli.commands.examples import EXAMPLES
from kiara_cli.config.layers import is_override
from kiara_cli.config.load import load_config


def commands(group: Any, before: str = "") -> dict[str, Any]:
    """List every command and group by the words that name it."""
    found = {}
    for name, command in group.commands.items():
        found[f"{before}{name}"] = command
        found |= commands(command, f"{before}{name} ") if hasattr(command, "commands") else {}
    return found


COMMANDS = commands(typer.main.get_command(app))


def test_every_command_has_examples_and_every_example_a_command() -> None:
    assert set(EXAMPLES) == set(COMMANDS)
    assert [words for words, lines in EXAMPLES.items() if not lines] == []
    assert [words for words, command in COMMANDS.items() if EXAMPLES[words][0] not in command.epilog] == []


@pytest.mark.parametrize(("words", "line"), [(words, line) for words, lines in EXAMPLES.items() for line in lines])
def test_an_example_is_a_command_line_that_is_understood(words: str, line: str) -> None:
    assert len(line) <= 78  # what a terminal of 80 columns shows on one line
    (part,) = (part for part in line.split(" | ") if part.startswith("kiara "))
    _, *arguments = shlex.split(part)
    name = " ".join(arguments[:2]) if arguments[0] == "runs" else arguments[0]
    assert name.startswith(words)
    context = COMMANDS[name].make_context(name, arguments[len(name.split()) :])
    typed = context.params.get("words") or []
    settings = [word for word in typed if is_override(word)]
    if "config" in context.params or settings:
        load_config(context.params.get("config") or (), settings, {})


def test_help_shows_the_examples_one_a_line(kiara: Any) -> None:
    said = kiara("train", "--help").out
    assert [line.strip() for line in said.splitlines() if line.strip() in EXAMPLES["train"]] == list(
        EXAMPLES["train"]
    )
    assert os.listdir(Path()) == []
