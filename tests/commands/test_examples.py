"""The examples at the end of every --help."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from parsing import COMMANDS, parse

from kiara_cli.commands.examples import EXAMPLES


def test_every_command_has_examples_and_every_example_a_command() -> None:
    assert set(EXAMPLES) == set(COMMANDS)
    assert [words for words, lines in EXAMPLES.items() if not lines] == []
    assert [words for words, command in COMMANDS.items() if EXAMPLES[words][0] not in command.epilog] == []


@pytest.mark.parametrize("words", EXAMPLES)
def test_an_example_is_a_command_line_that_is_understood(words: str) -> None:
    for line in EXAMPLES[words]:
        assert len(line) <= 78, line  # what a terminal of 80 columns shows on one line
        (part,) = (part for part in line.split(" | ") if part.startswith("kiara "))
        assert parse(shlex.split(part)[1:]).startswith(words)


def test_help_shows_the_examples_one_a_line(kiara: Any) -> None:
    said = kiara("train", "--help").out
    assert [line.strip() for line in said.splitlines() if line.strip() in EXAMPLES["train"]] == list(
        EXAMPLES["train"]
    )
