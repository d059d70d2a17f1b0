from __future__ import annotations

import gzip
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from kiara_cli.core.data.folders import open_folder
from kiara_cli.core.tokenizer.protocol import decode

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


@pytest.mark.parametrize(
    "name",
    ["~draft.txt", "./~x", " lead.txt", "new\nline.txt", "a.b=c.txt", "é" * 123 + ".txt"],
)
def test_a_file_of_any_name_is_tokenized_and_the_next_command_that_is_suggested_works(
    kiara: Kiara, name: str
) -> None:
    Path(name).write_text("the cat sat on the mat\n" * 20)
    ran = kiara("tokenize", name, "tokenizer.kind=char")
    assert ran.status == 0
    words = shlex.split(ran.err[ran.err.index("kiara train ") :])[1:]
    assert words[1] == name
    assert len(list(Path("data").iterdir())) == 1
    Path("other.txt").write_text("the dog sat on the log\n" * 20)
    assert json.loads(kiara("tokenize", name, "other.txt", "tokenizer.kind=char", "--json").out)["documents"] == 2


def test_settings_and_files_whose_names_look_like_settings_are_told_apart(kiara: Kiara, text: Path) -> None:
    Path("model.n_layers=4").write_text("not meant")
    assert json.loads(kiara("tokenize", str(text), "model.n_layers=4", "--json").out)["documents"] == 1
    assert "no section 'notes'" in kiara("tokenize", str(text), "notes.x=1").mistake


def test_process_substitution_is_read_once_and_kept(kiara: Kiara) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(b"the cat sat on the mat\n" * 20)
    try:
        ran = kiara("tokenize", f"/dev/fd/{reading}", "tokenizer.kind=char")
    finally:
        os.close(reading)
    assert ran.status == 0
    assert "460" in ran.out
    assert "kiara train data/" in ran.err


TALK = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}'
LINES = b'{"text": "first line"}\n' + TALK + b"\n"


@pytest.mark.parametrize(
    "raw",
    [
        LINES,
        gzip.compress(LINES),
        b"[" + LINES.strip().replace(b"\n", b",\n") + b"]",
        b"  \n" + LINES,
        b"\xef\xbb\xbf" + LINES,
        LINES.decode().encode("utf-16"),
    ],
    ids=["lines", "gzip", "array", "blank first", "mark", "wide"],
)
def test_json_on_stdin_is_noticed_and_not_learned_as_prose(kiara: Kiara, raw: bytes) -> None:
    ran = kiara("tokenize", "-", "tokenizer.kind=char", "--json", stdin=raw)
    made = json.loads(ran.out)
    assert made["documents"] == 2
    assert open_folder(Path(made["folder"])).meta.conversations
    assert "Read as JSON" in ran.err
    assert "line 2 is not JSON" in kiara("tokenize", "-", stdin=b'{"text": "x"}\n{').mistake


@pytest.mark.parametrize("text", ["[Chorus] la la\n", "{curly} prose\n", "[1] A footnote\n", '{"half": \n'])
def test_prose_on_stdin_that_only_begins_like_json_stays_prose(kiara: Kiara, text: str) -> None:
    made = json.loads(kiara("tokenize", "-", "tokenizer.kind=char", "--json", stdin=text * 20).out)
    assert (made["documents"], made["bytes"]) == (1, len(text) * 20)


def test_what_was_read_how_and_what_was_left_out_is_said_once(kiara: Kiara) -> None:
    Path("texts/.git").mkdir(parents=True)
    Path("texts/a.txt").write_bytes("L'été est arrivé; où es-tu? Ça coûte cher, déjà.\n".encode("latin-1") * 9)
    Path("texts/b.txt").write_bytes(b"\x7fELF\0\0")
    Path("texts/c.txt").symlink_to("nowhere")
    said = [
        "Left out, as they are hidden: texts/.git.",
        "Left out, as these links lead nowhere: texts/c.txt.",
        "Read as Windows-1252 (cp1252); if that is wrong, set data.encoding: texts/a.txt.",
        "Left out, as they are no texts: texts/b.txt.",
    ]
    ran = kiara("tokenize", "texts", "tokenizer.kind=char")
    assert [line for line in ran.err.splitlines() if line in said] == said
    again = kiara("tokenize", "texts", "tokenizer.kind=char", "--json")
    assert [f"{line[0].upper()}{line[1:]}." for line in json.loads(again.out)["notices"]] == said
    other = json.loads(kiara("tokenize", "texts", "tokenizer.kind=char", "data.encoding=cp1251", "--json").out)
    assert other["folder"] != json.loads(again.out)["folder"], (
        "the encoding is part of what the folder is named after"
    )
    assert "no encoding of text" in kiara("tokenize", "texts", "data.encoding=base64").mistake


def test_the_remedy_for_a_bad_line_is_an_option_of_the_command(kiara: Kiara, trained: Path) -> None:
    Path("a.jsonl").write_text('{"text": "one, and more of it"}\n{"text": \n' + '{"text": "three"}\n' * 2)
    for words in (["tokenize"], ["train"], ["eval", "--text"]):
        assert "line 2 is not JSON" in (line := kiara(*words, "a.jsonl").mistake)
        assert line.endswith("--skip-bad")
    assert json.loads(kiara("tokenize", "a.jsonl", "--skip-bad", "--json").out)["skipped"] == 1
    assert kiara("eval", "--text", "a.jsonl", "--skip-bad").status == 0


def test_a_held_out_share_far_from_the_one_asked_for_is_said(kiara: Kiara) -> None:
    Path("a.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}\n'
        + '{"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "No"}]}'
    )
    assert (
        "Held out for validation, and not data.val_fraction=0.1: 0."
        in kiara("tokenize", "a.jsonl", "tokenizer.kind=char").err
    )


def folder_of_mixed_types() -> None:
    Path("src/deep").mkdir(parents=True)
    Path("src/a.txt").write_text("The fox told a story.\n" * 30)
    Path("src/NOTES.MD").write_text("# Notes\n\n* one\n\t* two\n")
    Path("src/deep/b.jsonl").write_text('{"text": "first line"}\n{"text": "second line"}\n')
    pyarrow.parquet.write_table(pyarrow.table({"text": ["row one", "row two", "row three"]}), "src/c.parquet")
    Path("src/d.txt.gz").write_bytes(gzip.compress(b"packed text"))
    Path("src/e.jsonl.zst").write_bytes(pyarrow.compress(b'{"text": "packed line"}', codec="zstd", asbytes=True))
    Path("src/image.png").write_bytes(b"\x89PNG\0")


def test_a_folder_of_mixed_types_is_one_corpus(kiara: Kiara) -> None:
    folder_of_mixed_types()
    made = json.loads(kiara("tokenize", "src/", "tokenizer.kind=char", "--json").out)
    assert made["documents"] == 9
    assert made["skipped"] == 0
    assert made["unused_tokens"] >= 0
    opened = open_folder(Path(made["folder"]))
    text = decode(opened.tokenizer, [*opened.train, *opened.val])
    for words in ("# Notes\n\n* one\n\t* two\n", "second line", "row three", "packed text", "packed line"):
        assert words in text


def test_code_is_kept_as_it_is(kiara: Kiara) -> None:
    code = "def f(x):\n\tif x:\n        return  x  # two  blanks\n\n\n"
    Path("code").mkdir()
    for number in range(3):
        Path(f"code/{number}.py").write_text(code + f"n = {number}\n")
    made = json.loads(kiara("tokenize", "code/*.py", "--json").out)
    opened = open_folder(Path(made["folder"]))
    assert code + "n = 2\n" in decode(opened.tokenizer, [*opened.train, *opened.val])


def test_several_paths_are_one_corpus(kiara: Kiara) -> None:
    for name in "abc":
        Path(f"{name}.txt").write_text(f"this is {name}")
    made = json.loads(kiara("tokenize", "a.txt", "b.txt", "c.txt", "tokenizer.kind=char", "--json").out)
    assert made["documents"] == 3
    assert made["folder"].startswith("data/a-and-2-more-")


def test_standard_input_is_a_text(kiara: Kiara) -> None:
    text = "It was a dark and stormy night.\n" * 20
    made = json.loads(kiara("tokenize", "-", "tokenizer.kind=word", "--json", stdin=text).out)
    assert made["bytes"] == len(text)
    opened = open_folder(Path(made["folder"]))
    assert opened.meta.source == "-"
    assert decode(opened.tokenizer, [*opened.train, *opened.val]) == text
    shown = kiara("tokenize", "-", "tokenizer.kind=word", stdin=text)
    assert f"kiara train {made['folder']}" in shown.err
    assert "stdin is empty" in kiara("tokenize", "-", stdin="").mistake


def test_shares_and_merge_are_one_run(kiara: Kiara) -> None:
    folder_of_mixed_types()
    kiara("tokenize", "src/a.txt", "--json")
    (made,) = Path("data").iterdir()
    words = ["src", "--tokenizer", f"{made}/tokenizer.json", "--json"]
    one = Path(json.loads(kiara("tokenize", *words).out)["folder"])
    before = {path.name: path.read_bytes() for path in one.iterdir()}
    one.rename("one")
    assert "is not tokenized yet" in kiara("tokenize", *words, "--merge").mistake
    for index in range(3):
        done = json.loads(kiara("tokenize", *words, "--shard", f"{index}/3").out)
        assert done["shard"] == f"{index}/3"
    merged = Path(json.loads(kiara("tokenize", *words, "--merge").out)["folder"])
    assert merged == one
    assert {path.name: path.read_bytes() for path in merged.iterdir()} == before
    assert "no share of the work" in kiara("tokenize", *words, "--shard", "3/3").mistake
    assert "need a tokenizer" in kiara("tokenize", "src", "--shard", "0/3").mistake


def test_bad_lines_stop_the_work_or_are_counted(kiara: Kiara, nothing_behind: Callable[[], None]) -> None:
    lines = [json.dumps({"text": f"number {number}"}) for number in range(30)]
    Path("a.jsonl").write_text("\n".join([*lines[:20], "{broken", *lines[20:], "5"]))
    nothing_behind()
    assert "a.jsonl, line 21 is not JSON" in kiara("tokenize", "a.jsonl").mistake
    nothing_behind()
    made = json.loads(kiara("tokenize", "a.jsonl", "--skip-bad", "--json").out)
    assert (made["documents"], made["skipped"]) == (30, 2)


BAD = {
    "null.txt": (b"text\0text", "null.txt is a binary file"),
    "spaces.txt": (b" " * 2_000_000, "spaces.txt is empty"),
    "a.parquet": (b"PAR1", "a.parquet is damaged"),
    "a.jsonl": (b'{"text": 5}', "a.jsonl, line 1: neither a conversation nor a text called 'text'"),
    "a.txt.gz": (b"not packed", "cannot read a.txt.gz"),
    "a.txt.zst": (pyarrow.compress(b"x" * 999, codec="zstd", asbytes=True)[:-2], "cannot read a.txt.zst"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_tokenized_is_one_line_and_leaves_nothing(
    kiara: Kiara, nothing_behind: Callable[[], None], name: str
) -> None:
    content, words = BAD[name]
    Path(name).write_bytes(content)
    nothing_behind()
    assert words in kiara("tokenize", name).mistake
    nothing_behind()


GOOD = {
    "stray.txt": ("née, née, with one stray ".encode() + b"\xff byte\n") * 30,
    "bom.txt": b"\xef\xbb\xbf" + b"fine text\n" * 30,
    "utf16.txt": ("fine text, née\n" * 30).encode("utf-16"),
    "spaces.txt": b"a b" + b" " * 2_000_000 + b" b",
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_odd_texts_are_tokenized(kiara: Kiara, name: str, kind: str) -> None:
    Path(name).write_bytes(GOOD[name])
    ran = kiara("tokenize", name, f"tokenizer.kind={kind}", "--json")
    assert ran.status == 0, ran.err
    opened = open_folder(Path(json.loads(ran.out)["folder"]))
    text = decode(opened.tokenizer, [*opened.train, *opened.val])
    assert "\ufeff" not in text
    assert text.count("\ufffd") == (30 if name == "stray.txt" else 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_an_unreadable_file_in_a_folder_is_named(kiara: Kiara) -> None:
    folder_of_mixed_types()
    os.chmod("src/a.txt", 0)
    assert "cannot read src/a.txt: Permission denied" in kiara("tokenize", "src").mistake


def test_a_file_that_vanishes_is_named(kiara: Kiara, nothing_behind: Callable[[], None]) -> None:
    folder_of_mixed_types()
    Path("src/gone.txt").symlink_to("/proc/self/mem")  # a file that can be opened and not read
    assert "cannot read src/gone.txt" in kiara("tokenize", "src").mistake
    assert not Path("data").exists() or not list(Path("data").iterdir())


def test_token_files_that_were_damaged_are_one_line(kiara: Kiara, text: Path) -> None:
    made = json.loads(kiara("tokenize", str(text), "tokenizer.kind=char", "--json").out)
    path = Path(made["folder"], "train.bin")
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + b"\xff\xff")
    assert "is damaged: it holds the id 65,535" in kiara("tokenize", str(text), "tokenizer.kind=char").mistake
    path.write_bytes(whole[:-2])
    assert "is truncated" in kiara("train", str(text), "tokenizer.kind=char").mistake


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_any_bytes_go_through_a_pipe_and_back(kiara: Kiara, text: Path, kind: str) -> None:
    kiara("tokenize", str(text), f"tokenizer.kind={kind}")
    original = bytes(range(256)) * 3 + "née 漢🐈".encode() + b"\xe6\xbc"
    if kind == "char":
        original = b"the cat"
    encoded = kiara("tokenize", "--encode", "-", stdin=original)  # with the newest folder's tokenizer
    assert kiara("tokenize", "--decode", "-", stdin=encoded.raw).raw == original


TIKTOKEN = Path(__file__).parents[2] / "../shared/tiktoken"


@pytest.mark.skipif(not TIKTOKEN.is_dir(), reason="tiktoken's files are not on this machine")
def test_gpt2_by_name(kiara: Kiara, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(TIKTOKEN))
    raw = text.read_bytes() + bytes(range(256))
    encoded = kiara("tokenize", "--encode", "-", "--tokenizer", "gpt2", stdin=raw)
    assert kiara("tokenize", "--decode", "-", "tokenizer.kind=gpt2", stdin=encoded.raw).raw == raw
    made = json.loads(kiara("tokenize", str(text), "tokenizer.kind=gpt2", "--json").out)
    assert made["vocab_size"] == 50257 + 4
