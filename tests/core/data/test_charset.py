"""Any text file is read, and said how; what is not text is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.data.charset import BinaryError, decode_chunks, decode_text, detect
from kiara_cli.core.data.notices import Notices
from kiara_cli.core.data.readers import read_documents
from kiara_cli.core.data.slices import Reading
from kiara_cli.errors import KiaraError

TEXT = "Grüße, 你好 — ça va?\nSecond line.\n"
SAMPLES = {
    "cp1252": "L’été, où es-tu? Ça coûte 5 €. La vie est belle, mais le train était déjà parti à l'arrivée.\n",
    "latin-1": "Der Fuchs saß am Fluß und erzählte dem Reiher eine lange Geschichte über Bäume und Äpfel.\n",
    "cp1251": "Лиса села у реки и рассказала цапле длинную историю. Жили-были старик со старухой.\n",
    "koi8_r": "Лиса села у реки и рассказала цапле длинную историю. Жили-были старик со старухой.\n",
    "gb18030": "狐狸坐在河边，给苍鹭讲了一个很长的故事。从前有一座山，山里有一座庙。\n",
    "big5": "狐狸坐在河邊，給蒼鷺講了一個很長的故事。從前有一座山，山裡有一座廟。\n",
    "shift_jis": "狐は川のそばに座り、鷺に長い話をした。昔々あるところに、おじいさんがいました。\n",
    "euc_jp": "狐は川のそばに座り、鷺に長い話をした。昔々あるところに、おじいさんがいました。\n",
    "euc_kr": "여우는 강가에 앉아 왜가리에게 긴 이야기를 들려주었다. 옛날 옛적에 호랑이가 살았습니다.\n",
    "cp1250": "Příliš žluťoučký kůň úpěl ďábelské ódy. Liška seděla u řeky a vyprávěla volavce příběh.\n",
    "cp1253": "Η αλεπού κάθισε δίπλα στο ποτάμι και είπε στον ερωδιό μια μεγάλη ιστορία.\n",
    "cp1254": "Tilki nehrin kıyısına oturdu ve balıkçıla uzun bir hikâye anlattı. Şişli, ağaç, güneş.\n",
    "cp1255": "השועל ישב ליד הנהר וסיפר לאנפה סיפור ארוך מאוד על הימים ההם.\n",
    "iso2022_jp": "狐は川のそばに座り、鷺に長い話をした。\n",
    "utf-16-le": "The fox sat by the river, née fable.\n",
    "utf-16-be": "狐狸坐在河边，给苍鹭讲了一个很长的故事。\n",
    "utf-32-le": "Лиса села у реки и рассказала.\n",
    "utf-32": "née fable\n",
    "utf-16": "née fable\n",
}


def noted(raw: bytes, encoding: str | None = None) -> tuple[str, list[str]]:
    notices = Notices()
    return decode_text(raw, "x.txt", encoding, notices), notices.lines()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf_8_is_read_without_a_word(encoding: str) -> None:
    assert noted(TEXT.encode(encoding)) == (TEXT, [])


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z")), max_size=200))
def test_what_is_whole_utf_8_is_read_as_it_is(text: str) -> None:
    assert decode_text(text.encode(), "x") == text.removeprefix("\ufeff")


@pytest.mark.parametrize("times", [1, 60])
@pytest.mark.parametrize("encoding", SAMPLES)
def test_other_encodings_are_told_by_the_bytes_and_named(encoding: str, times: int) -> None:
    text, lines = noted((SAMPLES[encoding] * times).encode(encoding))
    assert text == SAMPLES[encoding] * times
    assert len(lines) == 1
    assert lines[0].startswith("read as ")
    assert "data.encoding" in lines[0]
    assert lines[0].endswith(": x.txt")


def test_few_accents_in_much_english_are_windows_1252() -> None:
    text = "The fox told the heron a long story by the river. " * 50 + "née, naïve\n"
    assert noted(text.encode("latin-1"))[0] == text
    assert noted("café\n".encode("latin-1"))[0] == "café\n"


def test_an_encoding_that_is_given_is_used_and_what_is_none_of_it_is_counted() -> None:
    assert noted("Привет".encode("cp866"), "cp866") == ("Привет", [])
    text, lines = noted(b"caf\xe9\ncaf\xe9", "utf-8")
    assert text == "caf\ufffd\ncaf\ufffd"
    assert lines == ["bytes that are no UTF-8 became U+FFFD: x.txt (2, first in line 1)"]
    with pytest.raises(KiaraError, match=r"cannot be told.*data.encoding"):
        decode_text(bytes(range(128, 256)) * 2, "x")


def test_a_stray_byte_costs_one_character_and_is_said_where_it_is() -> None:
    text, lines = noted(TEXT.encode() + "\ufffd is meant; ".encode() + b"\xff end")
    assert text == TEXT + "\ufffd is meant; \ufffd end"
    assert lines == ["bytes that are no UTF-8 became U+FFFD: x.txt (1, first in line 3)"]


def test_one_nul_in_a_long_text_is_a_stray_byte_said_with_its_position() -> None:
    raw = b"the fox and the heron\n" * 40
    text, lines = noted(raw[:300] + b"\0" + raw[300:])
    assert text == (raw[:300] + b"\0" + raw[300:]).decode()
    assert lines == ["NUL bytes were kept: x.txt (1, first at byte 300)"]


def test_windows_newlines_become_plain_ones() -> None:
    assert decode_text(b"a\r\nb\rc\n", "x") == "a\nb\rc\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"text\0text",
        bytes(range(1, 32)) * 100,
        b"\x7fELF\0\0",
        b"%PDF-1.4 text",
        b"PK\x03\x04 text",
        os.urandom(5000),
    ],
    ids=["nul", "controls", "program", "pdf", "office", "random"],
)
def test_a_binary_file_is_refused(raw: bytes) -> None:
    with pytest.raises(KiaraError, match=r"x is a binary file, not text|cannot be told"):
        decode_text(raw, "x")


def test_a_binary_file_that_is_named_is_refused_and_one_in_a_folder_left_out() -> None:
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("good")
    Path("texts/b.txt").write_bytes(b"\x7fELF\0\0")
    with pytest.raises(KiaraError, match=r"texts/b.txt is a binary file"):
        read_documents("texts/b.txt")
    reading = Reading()
    assert [document.text for document in read_documents("texts", reading)] == ["good"]
    assert reading.notices.lines() == ["left out, as they are no texts: texts/b.txt"]
    Path("texts/a.txt").unlink()
    with pytest.raises(KiaraError, match=r"texts is empty \(left out, as they are no texts: texts/b.txt\)"):
        read_documents("texts")


@given(
    cuts=st.lists(st.integers(1, 30), max_size=6),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030"]),
    text=st.text(st.sampled_from("aé漢🐈\r\n "), max_size=60),
)
def test_a_text_is_decoded_the_same_in_any_chunks(cuts: list[int], encoding: str, text: str) -> None:
    raw = text.encode(encoding)
    chunks, at = [], 0
    for cut in cuts:
        chunks.append(raw[at : at + cut + 4])  # the first holds the mark
        at += cut + 4
    chunks = [chunk for chunk in (*chunks, raw[at:]) if chunk]
    found = detect(chunks, "x", "gb18030" if encoding == "gb18030" else None)
    assert "".join(decode_chunks(chunks, found)) == text.replace("\r\n", "\n")


def test_binary_is_told_from_other_mistakes() -> None:
    with pytest.raises(BinaryError):
        detect([b"\x89PNG\r\n"], "x")
