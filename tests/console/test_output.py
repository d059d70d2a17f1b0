import io
import re
import sys
from pathlib import Path

import pytest
from rich.live import Live
from rich.progress import Progress

from kiara_cli.console import output


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_control_characters_do_not_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    output.stream("a\x1b[2Jb\r\x07\x7f\x9b\ttab\nend 漢🙂")
    output.result("\x1b]0;title")
    assert sys.stdout.getvalue() == "a␛[2Jb␍␇␡\ufffd\ttab\nend 漢🙂␛]0;title\n"  # type: ignore[attr-defined]


WANTED = [("FORCE_COLOR", True), ("FORCE_COLOR NO_COLOR", False), ("TTY_INTERACTIVE", False)]


@pytest.mark.parametrize(("variables", "coloured"), WANTED)
def test_a_file_gets_colours_where_they_are_asked_for_and_never_cursor_codes(
    monkeypatch: pytest.MonkeyPatch, variables: str, coloured: bool
) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name in variables.split():
        monkeypatch.setenv(name, "1")
    file = io.StringIO()
    console = output.console(file)
    with Progress(console=console), Live("[red]panel[/]", console=console):
        console.print("[red]text[/]")
    assert ("\x1b[31m" in file.getvalue()) == coloured
    assert not re.search(r"\x1b\[[^m]*[A-Zac-ln-z]", file.getvalue())


def test_every_console_is_made_in_one_place() -> None:
    package = Path(output.__file__).parent.parent
    made = [path.name for path in package.rglob("*.py") if re.search(r"\bConsole\(", path.read_text())]
    assert made == ["output.py"]


def test_a_pipe_gets_every_character_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    output.stream("a\x1b[2J\x00\r")
    assert sys.stdout.getvalue() == "a\x1b[2J\x00\r"  # type: ignore[attr-defined]
