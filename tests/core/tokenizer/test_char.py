"""One id per character."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.tokenizer.char import ASCII, CharTokenizer
from kiara_cli.core.tokenizer.protocol import SPECIALS, decode


@given(st.text())
def test_a_fitted_text_comes_back_as_it_was(text: str) -> None:
    tokenizer = CharTokenizer.fit([text])
    ids = tokenizer.encode(text)
    assert tokenizer.encode_array(text + "漢").tolist() == tokenizer.encode(text + "漢")
    assert decode(tokenizer, ids) == text
    assert len(ids) == len(text)


@given(st.text(min_size=1), st.text(min_size=1))
def test_the_order_of_texts_does_not_matter(a: str, b: str) -> None:
    assert CharTokenizer.fit([a, b]).state() == CharTokenizer.fit([b, a]).state()


def test_a_character_that_was_not_fitted_is_unknown() -> None:
    tokenizer = CharTokenizer.fit(["abc"])
    assert tokenizer.encode("aé") == [0, tokenizer.unknown]
    assert decode(tokenizer, tokenizer.encode("aéb")) == "a\ufffdb"


def test_ascii_knows_tab_newline_and_what_can_be_printed() -> None:
    tokenizer = CharTokenizer.ascii()
    assert len(ASCII) == 97
    assert tokenizer.size == 97 + 1 + len(SPECIALS)
    assert tokenizer.unknown not in tokenizer.encode("Hello, world!\n\t~")
    assert tokenizer.encode("\r")[0] == tokenizer.unknown


def test_every_id_below_size_has_bytes_or_is_special() -> None:
    tokenizer = CharTokenizer.fit(["aé"])
    special = set(tokenizer.specials.values())
    assert special == set(range(tokenizer.size - len(SPECIALS), tokenizer.size))
    for token in range(tokenizer.size):
        assert (tokenizer.token_bytes(token) == b"") == (token in special)


@pytest.mark.parametrize("name", SPECIALS)
def test_the_name_of_a_special_token_is_ordinary_text(name: str) -> None:
    tokenizer = CharTokenizer.fit([name])
    assert not set(tokenizer.encode(name)) & set(tokenizer.specials.values())
    assert decode(tokenizer, tokenizer.encode(name)) == name


@pytest.mark.parametrize("characters", ["aa", 5, None, ["a"]])
def test_characters_that_repeat_or_are_no_text_are_refused(characters: object) -> None:
    with pytest.raises(ValueError, match="without repeats"):
        CharTokenizer.from_state({"characters": characters})
