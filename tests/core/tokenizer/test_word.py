"""One id per word, and text that can be read again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.tokenizer.protocol import SPECIALS, decode
from kiara_cli.core.tokenizer.word import WordTokenizer


@given(st.text())
def test_a_fitted_text_comes_back_as_it_was(text: str) -> None:
    tokenizer = WordTokenizer.fit([text], 1000)
    ids = tokenizer.encode(text)
    assert decode(tokenizer, ids) == text
    assert tokenizer.encode_array(text).tolist() == ids


def test_words_keep_the_space_before_them_and_marks_stand_alone() -> None:
    tokenizer = WordTokenizer.fit(["The cat, the hat.\n\tEnd"], 1000)
    assert sorted(tokenizer.words) == sorted(["The", " cat", ",", " the", " hat", ".", "\n", "\t", "End"])


def test_the_most_frequent_words_have_ids_and_the_others_are_unknown_but_readable() -> None:
    tokenizer = WordTokenizer.fit(["a a a b b c"], 2 + 2 + len(SPECIALS))
    assert tokenizer.words == [" a", " b"]
    assert tokenizer.size == 4 + len(SPECIALS)
    assert decode(tokenizer, tokenizer.encode("so a zebra b!")) == "\ufffd a \ufffd b\ufffd"


@given(st.text())
def test_no_text_yields_a_special_id(text: str) -> None:
    tokenizer = WordTokenizer.fit(["a b"], 1000)
    assert not set(tokenizer.encode(text + "<|end|>")) & set(tokenizer.specials.values())


@pytest.mark.parametrize("words", [["a", "a"], "ab", [1], ["two words"], None])
def test_what_is_no_list_of_words_is_refused(words: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        WordTokenizer.from_state({"words": words})
