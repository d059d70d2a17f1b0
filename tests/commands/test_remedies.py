"""What a message tells a person to type exists in that command."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import kiara_cli
from kiara_cli.app import app

Kiara = Callable[..., Any]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def options() -> set[str]:
    """Return every option of every command."""
    commands = list(typer.main.get_command(app).commands.values())  # type: ignore[attr-defined]
    for group in [command for command in commands if hasattr(command, "commands")]:
        commands += group.commands.values()
    return {name for command in commands for parameter in command.params for name in parameter.opts}


def named() -> Iterator[tuple[str, str]]:
    """Yield every option that the text of an error names, and where."""
    for path in Path(kiara_cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "KiaraError":
                texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                for text in filter(lambda value: isinstance(value, str), texts):
                    yield from ((option, f"{path.name}:{node.lineno}") for option in OPTION.findall(str(text)))


def test_every_option_that_an_error_names_exists() -> None:
    known = options()
    assert {"--skip-bad", "--resume", "--text"} <= known
    assert {option for option, _ in named()} >= {"--allow-changed-data", "--text", "--out"}
    assert [(option, place) for option, place in named() if option not in known] == []


@pytest.mark.parametrize(
    "words",
    [["eval"], ["quantize", "--bits", "8", "--method", "rtn", "--out", "small.pt"]],
    ids=lambda words: words[0],
)
def test_lines_that_cannot_be_read_may_be_skipped_wherever_a_message_says_so(
    kiara: Kiara, trained: Path, words: list[str]
) -> None:
    good = "".join(f'{{"text": "{number} cats sat on the mat"}}\n' for number in range(20))
    Path("lines.jsonl").write_text(good + "no json\n")
    assert "--skip-bad" in kiara(*words, "--text", "lines.jsonl").mistake
    ran = kiara(*words, "--text", "lines.jsonl", "--skip-bad", "--json")
    assert ran.status == 0, ran.err
