import io
import sys

import pytest

from kiara_cli.console import output


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_control_characters_do_not_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    output.stream("a\x1b[2Jb\r\x07\x7f\x9b\ttab\nend 漢🙂")
    output.result("\x1b]0;title")
    assert sys.stdout.getvalue() == "a␛[2Jb␍␇␡\ufffd\ttab\nend 漢🙂␛]0;title\n"  # type: ignore[attr-defined]


def test_a_pipe_gets_every_character_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    output.stream("a\x1b[2J\x00\r")
    assert sys.stdout.getvalue() == "a\x1b[2J\x00\r"  # type: ignore[attr-defined]
