from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.core.data.folders import open_folder

Kiara = Callable[..., Any]
KEYS = {
    "folder", "documents", "bytes", "train_tokens", "val_tokens", "vocab_size", "bytes_per_token", "seconds",
}  # fmt: skip


def test_json_says_what_was_made(kiara: Kiara, text: Path) -> None:
    ran = kiara("tokenize", str(text), "tokenizer.kind=char", "--json")
    assert ran.status == 0
    made = json.loads(ran.out)
    assert made.keys() >= KEYS
    assert made["documents"] == 1
    assert made["bytes"] == text.stat().st_size
    opened = open_folder(Path(made["folder"]))
    assert made["train_tokens"] == len(opened.train)
    assert made["val_tokens"] == len(opened.val)
    assert made["vocab_size"] == opened.tokenizer.size
    assert made["folder"].startswith("data/text-")
    assert {path.name for path in Path(made["folder"]).iterdir()} == {
        "tokenizer.json", "train.bin", "val.bin", "meta.json",
    }  # fmt: skip


def test_the_same_again_is_the_same_folder_and_other_settings_are_another(kiara: Kiara, text: Path) -> None:
    folders = []
    for word in ("data.val_fraction=0.1", "data.val_fraction=0.1", "data.val_fraction=0.2", "tokenizer.kind=char"):
        folders.append(json.loads(kiara("tokenize", str(text), word, "--json").out)["folder"])
    text.write_text(text.read_text() + "more")
    folders.append(json.loads(kiara("tokenize", str(text), "--json").out)["folder"])
    assert folders[0] == folders[1]
    assert len(set(folders)) == 4


def test_a_person_is_shown_the_same_on_stdout_and_what_to_do_next_on_stderr(kiara: Kiara, text: Path) -> None:
    ran = kiara("tokenize", str(text), "tokenizer.kind=char")
    for word in ("folder", "documents", "bytes per token", "seconds"):
        assert word in ran.out
    assert "kiara train text.txt" in ran.err
    assert "\x1b" not in ran.out + ran.err


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_encoding_and_decoding_in_a_pipe_gives_every_byte_back(kiara: Kiara, text: Path, kind: str) -> None:
    made = json.loads(kiara("tokenize", str(text), f"tokenizer.kind={kind}", "--json").out)
    tokenizer = f"{made['folder']}/tokenizer.json"
    original = "\nhör auf, 漢!  the\tcat\n\n" if kind == "bpe" else "\nhör auf, 漢!  the cat\n\n"
    encoded = kiara("tokenize", "--encode", "-", "--tokenizer", tokenizer, stdin=original)
    assert encoded.status == 0
    assert encoded.out.count("\n") == 1
    decoded = kiara("tokenize", "--decode", "-", "--tokenizer", tokenizer, stdin=encoded.raw)
    assert decoded.raw == original.encode()
    assert decoded.err == ""


def test_bpe_gives_back_what_it_has_never_seen(kiara: Kiara, text: Path) -> None:
    made = json.loads(kiara("tokenize", str(text), "--json").out)
    tokenizer = f"{made['folder']}/tokenizer.json"
    original = "\r\n \t\x00🐈‍⬛<|endoftext|>\u2028é\u0301"
    encoded = kiara("tokenize", "--encode", "-", "--tokenizer", tokenizer, stdin=original)
    assert kiara("tokenize", "--decode", "-", "--tokenizer", tokenizer, stdin=encoded.raw).raw == original.encode()


def test_a_checkpoint_lends_its_tokenizer(kiara: Kiara, trained: Path) -> None:
    for words in ([], ["--tokenizer", "text"], ["--tokenizer", "checkpoints/text/best.pt"]):
        ids = kiara("tokenize", "--encode", "the cat", *words)
        assert ids.status == 0
        assert kiara("tokenize", "--decode", ids.out.strip(), *words).out == "the cat"
    made = json.loads(kiara("tokenize", "text.txt", "--tokenizer", "text", "--json").out)
    assert made["train_tokens"] > 0


def test_ids_that_are_none_are_refused(kiara: Kiara, trained: Path) -> None:
    assert "whole numbers" in kiara("tokenize", "--decode", "1 two 3").mistake
    assert "an id lies outside" in kiara("tokenize", "--decode", "1 99999").mistake
    assert "an id lies outside" in kiara("tokenize", "--decode", "-1").mistake


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", ["empty.txt is empty"]),
        ("blank.txt", b" \n\n\t ", ["blank.txt is empty"]),
        ("binary.txt", b"\x7fELF\x00\x01\x02" * 100, ["binary.txt is a binary file"]),
        ("controls.txt", bytes(range(1, 9)) * 100, ["controls.txt is a binary file"]),
    ],
)
@pytest.mark.parametrize("command", ["tokenize", "train"])
def test_what_is_no_text_is_refused_and_leaves_nothing_behind(
    kiara: Kiara, nothing_behind: Callable[[], None], command: str, name: str, content: bytes, words: list[str]
) -> None:
    Path(name).write_bytes(content)
    nothing_behind()
    line = kiara(command, name).mistake
    assert all(word in line for word in words)
    nothing_behind()


def test_a_folder_without_texts_is_refused(kiara: Kiara, nothing_behind: Callable[[], None]) -> None:
    Path("texts").mkdir()
    Path("texts/image.png").write_bytes(b"x")
    nothing_behind()
    assert "the folder texts holds no" in kiara("tokenize", "texts").mistake
    nothing_behind()


def test_a_file_where_the_data_folder_should_be_is_a_mistake_of_one_line(kiara: Kiara, text: Path) -> None:
    Path("data").write_text("in the way")
    assert "data" in kiara("tokenize", str(text), "tokenizer.kind=char").mistake
    assert Path("data").read_text() == "in the way"
