"""A conversation that was saved is read back, and damaged files are one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kiara_cli.core.chat.saved import load, save
from kiara_cli.errors import KiaraError

FILE = Path("talk.jsonl")


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def test_a_conversation_that_went_on_takes_the_place_of_its_beginning_and_others_stay() -> None:
    assert save(FILE, talk("a", "b")) == 1
    assert save(FILE, talk("a", "b", "c\n漢", "d")) == 1
    assert save(FILE, talk("x", "y")) == 2
    assert load(FILE) == talk("x", "y")
    assert load(FILE, 1) == talk("a", "b", "c\n漢", "d")
    assert [*json.loads(FILE.read_text().splitlines()[0])] == ["messages"]


def test_what_has_no_reply_is_not_saved() -> None:
    save(FILE, talk("a", "b", "c", "", "d", "e", "f"))
    assert load(FILE) == talk("a", "b", "d", "e")
    with pytest.raises(KiaraError, match="nothing to save"):
        save(FILE, talk("a", ""))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read talk.jsonl: No such file"),
        (b"", "talk.jsonl is empty"),
        (b"\xff\xfe\x00", "talk.jsonl is no text"),
        (b'{"messages": [{"role": "us', "line 1: no list of messages"),
        (b'{"messages": []}\n', "line 1: no list of messages"),
        (b'{"messages": [{"role": "wizard", "content": "x"}]}\n', "a message needs a role"),
        (b"[" * 100_000, "line 1: no list of messages"),
    ],
    ids=range(7),
)
def test_a_damaged_file_is_one_line(content: bytes | None, said: str) -> None:
    if content is not None:
        FILE.write_bytes(content)
    with pytest.raises(KiaraError, match=said) as error:
        load(FILE)
    assert len(str(error.value).splitlines()) == 1


def test_nothing_is_saved_into_a_file_of_something_else_or_what_is_no_folder() -> None:
    FILE.write_text("Dear diary\n")
    for path, said in ((FILE, "something else"), (FILE / "talk.jsonl", "cannot (read|write) talk.jsonl/talk")):
        with pytest.raises(KiaraError, match=said):
            save(path, talk("a", "b"))
    assert FILE.read_text() == "Dear diary\n"
    save(Path("one.jsonl"), talk("a", "b"))
    with pytest.raises(KiaraError, match="no line 2"):
        load(Path("one.jsonl"), 2)
