"""Every kind of file becomes documents; what is damaged is said in one line or left out and counted."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from kiara_cli.core.data import readers
from kiara_cli.core.data.documents import decode_chunks, sniff
from kiara_cli.core.data.inputs import find_inputs
from kiara_cli.core.data.readers import Reading, Slice, digest, read, read_documents
from kiara_cli.core.tokenizer.bpe import last_break
from kiara_cli.errors import KiaraError

ROWS = [f"row {number}: née\nsecond line" for number in range(20)]
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


def texts(source: str, reading: Reading | None = None) -> list[str]:
    return [document.text for document in read_documents(source, reading)]


def write_jsonl(path: str, rows: list[str] = ROWS) -> None:
    Path(path).write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path: str, **columns: list[object]) -> None:
    parquet.write_table(pyarrow.table(columns), path, row_group_size=4)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gz", "zst"])
@pytest.mark.parametrize("name", ["rows.jsonl", "plain.txt"])
def test_a_packed_file_is_read_as_if_it_were_not(pack: Callable[[bytes], bytes], name: str) -> None:
    write_jsonl(name)
    plain = texts(name)
    suffix = ".gz" if pack is gzip.compress else ".ZST"
    raw = Path(name).read_bytes()
    Path(name + suffix).write_bytes(pack(raw[:300]) + pack(raw[300:]))  # several frames in a row are one file
    assert texts(name + suffix) == plain


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gz", "zst"])
@pytest.mark.parametrize("damage", ["short", "wrong"])
def test_a_damaged_packed_file_is_one_line(pack: Callable[[bytes], bytes], damage: str) -> None:
    whole = pack(np.random.default_rng(0).bytes(5000).hex().encode())
    name = "a.txt.gz" if pack is gzip.compress else "a.txt.zst"
    Path(name).write_bytes(whole[:-20] if damage == "short" else b"nothing packed at all")
    with pytest.raises(KiaraError, match=rf"{name}"):
        texts(name)


def test_parquet_and_json_lines_give_the_same_documents() -> None:
    write_jsonl("a.jsonl")
    write_parquet("a.parquet", text=ROWS, id=list(range(20)))
    assert texts("a.parquet") == texts("a.jsonl") == ROWS
    write_parquet("b.parquet", text=[None, " ", "x"])
    assert texts("b.parquet") == ["x"]


def test_conversations_come_from_json_lines_and_from_parquet() -> None:
    Path("a.jsonl").write_text(json.dumps({"messages": TALK}))
    write_parquet("a.parquet", messages=[TALK])
    for name in ("a.jsonl", "a.parquet"):
        assert [dict(turn) for turn in read_documents(name)[0].messages] == TALK


def test_the_field_is_the_persons_to_name() -> None:
    write_parquet("a.parquet", story=ROWS)
    assert texts("a.parquet", Reading("story")) == ROWS
    with pytest.raises(KiaraError, match=r"a.parquet has no field 'text' \(it has: story\); write data.field=story"):
        texts("a.parquet")
    Path("a.jsonl").write_text('{"story": "x"}\n')
    with pytest.raises(KiaraError, match=r"line 1: neither a list of messages nor a text called 'text'"):
        texts("a.jsonl")


def test_a_line_that_is_no_json_is_named_or_left_out() -> None:
    Path("a.jsonl").write_bytes(b'{"text": "one"}\n\n{"text": tw\n{"text": 5}\n[]\n\0\n{"text": "s\xff"}')
    with pytest.raises(KiaraError, match=r"a.jsonl, line 3 is not JSON"):
        texts("a.jsonl")
    reading = Reading(skip_bad=True)
    assert texts("a.jsonl", reading) == ["one", "s\ufffd"]
    assert reading.skipped == 4


def test_json_lines_may_have_a_mark_or_be_utf_16() -> None:
    write_jsonl("a.jsonl")
    text = Path("a.jsonl").read_text(encoding="utf-8")
    for encoding in ("utf-8-sig", "utf-16"):
        Path("a.jsonl").write_bytes(text.encode(encoding))
        assert texts("a.jsonl") == ROWS


def test_half_a_character_in_json_is_no_crash() -> None:
    Path("a.jsonl").write_text('{"text": "a\\ud800b"}')
    assert texts("a.jsonl") == ["a\ufffdb"]


def test_what_cannot_be_read_is_named_or_left_out() -> None:
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("good")
    Path("texts/b.txt").write_bytes(b"\x7fELF\0\0")
    Path("texts/c.parquet").write_bytes(b"PAR1 not at all PAR1")
    with pytest.raises(KiaraError, match=r"texts/b.txt is a binary file"):
        texts("texts")
    reading = Reading(skip_bad=True)
    assert texts("texts", reading) == ["good"]
    assert reading.skipped == 2


@pytest.mark.parametrize("of", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_slices_together_are_the_whole(name: str, of: int) -> None:
    write_jsonl("a.jsonl")
    write_parquet("a.parquet", text=ROWS)
    found = find_inputs(name)[0]
    slices = [Slice(found, index, of) for index in range(of)]
    assert [document.text for document in read(slices, Reading())] == ROWS
    assert [document.origin for document in read(slices, Reading())] == [d.origin for d in read_documents(name)]
    assert sum(end - start for start, end in (part.range for part in slices)) == found.size
    if of < 9:  # shorter slices may well be equal
        assert len({digest(part, Reading()) for part in slices}) == of


@given(
    cuts=st.lists(st.integers(1, 30), max_size=6),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    text=st.text(st.sampled_from("aé漢🐈\r\n "), max_size=60),
)
def test_a_text_is_decoded_the_same_in_any_chunks(cuts: list[int], encoding: str, text: str) -> None:
    raw = text.encode(encoding)
    chunks, at = [], 0
    for cut in cuts:
        chunks.append(raw[at : at + cut + 2])  # the first holds the mark
        at += cut + 2
    chunks = [chunk for chunk in (*chunks, raw[at:]) if chunk]
    found = sniff(iter(chunks), "x")
    assert "".join(decode_chunks(iter(chunks), found)) == text.replace("\r\n", "\n")


def test_a_long_text_comes_in_parts_that_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"line {number} of née\r\n" for number in range(500))
    Path("a.txt").write_bytes(text.encode())
    whole = read_documents("a.txt")[0]
    monkeypatch.setattr(readers, "PART", 1000)
    parts = read_documents("a.txt")
    assert len(parts) > 5
    assert "".join(part.text for part in parts) == whole.text
    assert [part.continues for part in parts] == [False] + [True] * (len(parts) - 1)
    assert {part.content for part in parts} == {whole.content}
    assert all(part.text.endswith("\n") for part in parts)


def test_a_long_blank_text_is_no_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "PART", 1000)
    Path("a.txt").write_text(" " * 5000)
    with pytest.raises(KiaraError, match=r"a.txt is empty"):
        texts("a.txt")


@given(text=st.text(st.sampled_from("a /\n"), min_size=2, max_size=40), end=st.integers(1, 39))
def test_a_break_is_between_a_newline_and_something_visible(text: str, end: int) -> None:
    end = min(end, len(text))
    at = last_break(text, 0, end)
    assert 0 < at <= end
    assert at == end or (text[at - 1] == "\n" and text[at] in "a")


def write_ds(ids: list[list[int]], width: int = 2) -> None:
    flat = np.array([token for row in ids for token in row], dtype=f"<u{width}")
    Path("00000_tokens.ds").write_bytes(flat.tobytes())
    Path("00000_tokens.ds.index").write_bytes(np.cumsum([len(row) for row in ids]).astype("<u8").tobytes())


@pytest.mark.parametrize("width", [2, 4])
def test_the_token_files_of_datatrove_are_documents_of_ids(width: int) -> None:
    ids = [[5, 6, 7, 1], [8, 1], [9, 9, 9, 1]]
    write_ds(ids, width)
    assert [
        document.ids.tolist() for document in read_documents("00000_tokens.ds") if document.ids is not None
    ] == ids


def test_a_token_file_of_datatrove_that_is_damaged_or_has_no_index_is_refused() -> None:
    write_ds([[1, 2, 3], [4]])
    Path("00000_tokens.ds").write_bytes(Path("00000_tokens.ds").read_bytes()[:-1])
    with pytest.raises(KiaraError, match="does not hold the 4 ids of its index"):
        texts("00000_tokens.ds")
    Path("00000_tokens.ds.index").unlink()
    with pytest.raises(KiaraError, match=r"has no readable .*\.index"):
        texts("00000_tokens.ds")
