"""Every kind of file becomes documents; what is damaged is said in one line or left out and counted."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from kiara_cli.core.data import readers, slices
from kiara_cli.core.data.inputs import find_inputs
from kiara_cli.core.data.readers import read, read_documents
from kiara_cli.core.data.slices import Reading, Slice, digest
from kiara_cli.core.tokenizer.bpe import last_break
from kiara_cli.errors import KiaraError

ROWS = [f"row {number}: née\nsecond line" for number in range(20)]
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


def texts(source: str, reading: Reading | None = None) -> list[str]:
    return [document.text for document in read_documents(source, reading)]


def write_jsonl(path: str, rows: list[str] = ROWS) -> None:
    Path(path).write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")


def zstd(raw: bytes) -> bytes:
    return bytes(pyarrow.compress(raw, codec="zstd", asbytes=True))


def write_parquet(path: str, **columns: list[object]) -> None:
    parquet.write_table(pyarrow.table(columns), path, row_group_size=4)


@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gz", "zst"])
@pytest.mark.parametrize("name", ["rows.jsonl", "plain.txt"])
def test_a_packed_file_is_read_as_if_it_were_not(pack: Callable[[bytes], bytes], name: str) -> None:
    write_jsonl(name)
    plain = texts(name)
    suffix = ".gz" if pack is gzip.compress else ".ZST"
    raw = Path(name).read_bytes()
    Path(name + suffix).write_bytes(pack(raw[:300]) + pack(raw[300:]))  # several frames in a row are one file
    assert texts(name + suffix) == plain


@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gz", "zst"])
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
    with pytest.raises(KiaraError, match=r"line 1: neither a conversation nor a text called 'text'"):
        texts("a.jsonl")


def test_a_line_that_is_no_json_is_named_or_left_out() -> None:
    Path("a.jsonl").write_bytes(
        b'{"text": "one"}\n\n{"text": tw\n{"text": 5}\n[]\n\0\n{"text": "two"} x\n{"text": "two"}'
    )
    with pytest.raises(KiaraError, match=r"a.jsonl, line 3 is not JSON \(expecting value at character 10\)"):
        texts("a.jsonl")
    reading = Reading(skip_bad=True)
    assert texts("a.jsonl", reading) == ["one", "two"]
    assert reading.skipped == 5


ODD = {
    "nested": "[" * 100_000,
    "nested and whole": '{"text": "x", "y": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "digits": f'{{"text": "x", "n": {"9" * 5000}}}',
    "NaN": '{"text": "x", "n": NaN}',
    "Infinity": '{"text": "x", "n": -Infinity}',
    "surrogate": '{"text": "a\\ud800b"}',
    "surrogate in a message": '{"messages": [{"role": "user", "content": "\\udc00"}]}',
    "number": '{"text": NaN}',
    "text": "plain prose",
    "Alpaca": '{"instruction": "x", "input": "", "output": " "}',
    "ShareGPT": '{"conversations": [{"from": "narrator", "value": "x"}]}',
    "prompt and completion": '{"prompt": "x", "completion": 3}',
}


@pytest.mark.parametrize("line", ODD.values(), ids=ODD)
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json"])
def test_what_is_no_record_is_one_line_with_its_number_or_left_out_and_counted(name: str, line: str) -> None:
    Path(name).write_text('{"text": "one"}\n' + line + '\n{"text": "two"}\n')
    with pytest.raises(KiaraError) as caught:
        texts(name)
    assert caught.value.cause.startswith(f"{name}, line 2")
    assert "\n" not in str(caught.value)
    reading = Reading(skip_bad=True)
    assert texts(name, reading) == ["one", "two"]
    assert reading.skipped == 1


@pytest.mark.parametrize("line", [ODD["NaN"], ODD["digits"], ODD["surrogate"], ODD["Alpaca"]])
def test_an_element_of_an_array_that_is_no_record_is_left_out_alone(line: str) -> None:
    Path("a.json").write_text('[{"text": "one"},\n\n' + line + ',\n{"text": "two"}]')
    with pytest.raises(KiaraError, match="^a.json, line 3"):
        texts("a.json")
    reading = Reading(skip_bad=True)
    assert texts("a.json", reading) == ["one", "two"]
    assert reading.skipped == 1


@pytest.mark.parametrize("indent", [None, 2], ids=["line", "indented"])
@pytest.mark.parametrize("pack", [lambda raw: raw, zstd], ids=["plain", "zst"])
def test_a_json_array_is_the_documents_in_it(indent: int | None, pack: Callable[[bytes], bytes]) -> None:
    rows = [{"text": row} for row in ROWS] + [{"messages": TALK}]
    name = "a.json" if pack(b"") == b"" else "a.json.zst"
    Path(name).write_bytes(pack(json.dumps(rows, indent=indent, ensure_ascii=False).encode()))
    assert texts(name) == [*ROWS, "Hi\nHello!"]
    Path(name).write_bytes(pack(json.dumps(rows[-1], indent=indent).encode()))
    assert [dict(turn) for turn in read_documents(name)[0].messages] == TALK
    Path(name).write_bytes(pack(json.dumps(TALK, indent=indent).encode()))
    assert [dict(turn) for turn in read_documents(name)[0].messages] == TALK, "messages alone are one conversation"


def test_a_json_array_is_read_in_bounded_memory_whatever_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "CHUNK", 7)
    Path("a.json").write_text(json.dumps([{"text": row * 3} for row in ROWS], ensure_ascii=False))
    assert texts("a.json") == [row * 3 for row in ROWS]
    Path("a.json").write_text('[{"text": "one"}, {"text": ')
    with pytest.raises(KiaraError, match="a.json, line 1 is not JSON"):
        texts("a.json")


def test_lines_end_at_line_feeds_and_nowhere_else() -> None:
    rows = ["a\u2028b", "c\u0085d\u2029", "e\x0bf\x0c\x1cg"]
    Path("a.jsonl").write_bytes(
        "".join(f'{{"text": {json.dumps(row, ensure_ascii=False)}}}\r\n' for row in rows).encode()
    )
    assert texts("a.jsonl") == rows
    Path("a.jsonl").write_bytes(Path("a.jsonl").read_bytes().decode().encode("utf-16"))
    assert texts("a.jsonl") == rows


def test_a_field_that_is_null_is_absent_in_json_lines_and_parquet_alike() -> None:
    rows: list[dict[str, object]] = [
        {"text": "one", "messages": None}, {"text": None, "messages": TALK}, {"text": None, "messages": None},
        {"text": "both", "messages": TALK}, {"text": " ", "messages": None},
    ]  # fmt: skip
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), "a.parquet")
    for name, place in (("a.jsonl", "line"), ("a.parquet", "row")):
        reading = Reading()
        found = [(document.text, bool(document.messages)) for document in read_documents(name, reading)]
        assert found == [("one", False), ("Hi\nHello!", True), ("Hi\nHello!", True)]
        assert reading.notices.lines() == [
            f"left out, as all their fields are null: {name}, {place} 3",
            f"left out, as they are blank: {name}, {place} 5",
        ]
    parquet.write_table(pyarrow.Table.from_pylist([{"text": None, "messages": TALK}]), "a.parquet")
    assert len(read_documents("a.parquet")[0].messages) == 2


@pytest.mark.parametrize("encoding", ["latin-1", "cp1251", "gb18030", "shift_jis"])
def test_json_lines_in_another_encoding_are_told_by_the_bytes_and_named(encoding: str) -> None:
    word = {
        "latin-1": "née à Paris",
        "cp1251": "лиса у реки",
        "gb18030": "狐狸坐在河边",
        "shift_jis": "狐は川のそば",
    }[encoding]
    lines = [
        json.dumps({"text": f"{word} {number}" if number % 3 else "plain"}, ensure_ascii=False)
        for number in range(40)
    ]
    Path("a.jsonl").write_bytes("\n".join(lines).encode(encoding))
    reading = Reading()
    assert texts("a.jsonl", reading) == [json.loads(line)["text"] for line in lines]
    assert len(reading.notices.lines()) == 1
    assert reading.notices.lines()[0].startswith("read as ")
    found = find_inputs("a.jsonl")[0]
    sliced = [document.text for document in read([Slice(found, index, 3) for index in range(3)], Reading())]
    assert sliced == [json.loads(line)["text"] for line in lines]
    assert texts("a.jsonl", Reading(encoding=encoding)) == sliced


def test_a_stray_byte_in_json_lines_is_said_with_its_line() -> None:
    Path("a.jsonl").write_bytes('{"text": "née, élan"}\n'.encode() + b'{"text": "s\xff"}\n')
    reading = Reading()
    assert texts("a.jsonl", reading) == ["née, élan", "s\ufffd"]
    assert reading.notices.lines() == ["bytes that are no UTF-8 became U+FFFD: a.jsonl, line 2"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_json_lines_of_wide_characters_need_no_mark(encoding: str) -> None:
    write_jsonl("a.jsonl")
    Path("a.jsonl").write_bytes(Path("a.jsonl").read_text(encoding="utf-8").encode(encoding))
    assert texts("a.jsonl") == ROWS


def test_json_lines_that_are_called_text_are_learned_as_prose_with_a_word() -> None:
    write_jsonl("a.txt")
    reading = Reading()
    assert texts("a.txt", reading) == [Path("a.txt").read_text()]
    assert reading.notices.lines() == ["learned as plain text, though they hold JSON lines (name them .jsonl): a.txt"]


def test_a_row_that_is_no_utf_8_is_named_or_left_out() -> None:
    column = pyarrow.array([b"one", b"\xff\xfe", b"two"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": column}), "a.parquet")
    with pytest.raises(KiaraError, match="a.parquet, row 2 is not UTF-8"):
        texts("a.parquet")
    assert texts("a.parquet", Reading(skip_bad=True)) == ["one", "two"]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    raw=st.binary(max_size=400) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")),
    before=st.sampled_from(
        [b"", b'{"text": "a"}\n', b"[", b"PAR1", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xff\xfe", b"\xef\xbb\xbf"]
    ),
    name=st.sampled_from(["a.txt", "a.jsonl", "a.json", "a.parquet", "a.ds", "a.txt.gz", "a.jsonl.zst", "a.json.gz"]),
    skip_bad=st.booleans(),
)
def test_random_bytes_are_documents_or_one_clear_line(raw: bytes, before: bytes, name: str, skip_bad: bool) -> None:
    Path(name).write_bytes(before + raw)
    Path("a.ds.index").write_bytes(raw[:16])
    try:
        documents = read_documents(name, Reading(skip_bad=skip_bad))
    except KiaraError as error:
        documents, refused = [], str(error)
        assert name in refused
    for document in documents:
        assert document.text.encode() or document.ids is not None


def test_json_lines_may_have_a_mark_or_be_utf_16() -> None:
    write_jsonl("a.jsonl")
    text = Path("a.jsonl").read_text(encoding="utf-8")
    for encoding in ("utf-8-sig", "utf-16"):
        Path("a.jsonl").write_bytes(text.encode(encoding))
        assert texts("a.jsonl") == ROWS


def test_what_cannot_be_read_is_named_or_left_out() -> None:
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("good")
    Path("texts/b.txt").write_bytes(b"\x7fELF\0\0")
    Path("texts/c.parquet").write_bytes(b"PAR1 not at all PAR1")
    with pytest.raises(KiaraError, match=r"texts/c.parquet is damaged"):
        texts("texts")
    reading = Reading(skip_bad=True)
    assert texts("texts", reading) == ["good"]
    assert reading.skipped == 1


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
def test_a_break_is_between_a_newline_and_something_visible_or_a_letter_and_a_space(text: str, end: int) -> None:
    end = min(end, len(text))
    at = last_break(text, 0, end)
    assert 0 < at <= end
    assert at == end or text[at - 1 : at + 1] in ("\na", "a ")


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
