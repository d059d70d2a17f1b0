"""Any text file is read; what is not text is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.data.documents import decode_text
from kiara_cli.core.data.readers import read_documents
from kiara_cli.errors import KiaraError

TEXT = "Grüße, 你好 — ça va?\nSecond line.\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_text_is_read_in_any_encoding_that_says_what_it_is(encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith("e") else ""
    Path("a.txt").write_bytes((mark + TEXT).encode(encoding))
    assert read_documents("a.txt")[0].text == TEXT


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z")), max_size=200))
def test_what_is_whole_utf_8_is_read_as_it_is(text: str) -> None:
    assert decode_text(text.encode(), "x") == text.removeprefix("\ufeff")


def test_a_stray_byte_costs_one_character() -> None:
    assert decode_text(TEXT.encode() + b"\xff end", "x") == TEXT + "\ufffd end"


def test_a_text_with_more_broken_sequences_than_whole_ones_is_windows_1252() -> None:
    text = "L’été, où es-tu? Ça coûte 5 €."
    assert decode_text(text.encode("cp1252"), "x") == text


def test_windows_newlines_become_plain_ones() -> None:
    assert decode_text(b"a\r\nb\rc\n", "x") == "a\nb\rc\n"


@pytest.mark.parametrize("raw", [b"text\0text", bytes(range(1, 32)) * 100, b"\x7fELF\0\0"])
def test_a_binary_file_is_refused(raw: bytes) -> None:
    with pytest.raises(KiaraError, match="x is a binary file, not text"):
        decode_text(raw, "x")
