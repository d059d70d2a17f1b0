"""Splits of text, spelled for other programs."""

from __future__ import annotations

import pytest
import tiktoken
from tokenizers import Regex, pre_tokenizers

from kiara_cli.core.export.patterns import LLAMA3, SPELLINGS, pattern_of, spelling
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.errors import KiaraError


@pytest.mark.parametrize("pattern", SPELLINGS, ids=range(len(SPELLINGS)))
def test_both_spellings_of_a_pattern_split_every_text_alike(pattern: str, strings: list[str]) -> None:
    split = pre_tokenizers.Split(Regex(spelling(pattern).regex), "isolated")
    mark = "\ue000"  # a token that no text holds: what is left of a word's edges after encoding word by word
    for text in strings[:400]:
        words = [word for word, _ in split.pre_tokenize_str(text)]
        assert "".join(words) == text
        pieces = tiktoken.Encoding(
            "words",
            pat_str=pattern,
            mergeable_ranks={bytes([byte]): byte for byte in range(256)}
            | {
                word.encode(): 256 + index
                for index, word in enumerate(dict.fromkeys(words))
                if len(word.encode()) > 1
            },
            special_tokens={mark: 100_000},
        )
        found = [pieces.decode_single_token_bytes(token) for token in pieces.encode_ordinary(text)]
        assert found == [word.encode() for word in words], text


def test_a_pattern_is_recognised_by_its_spelling() -> None:
    assert pattern_of(LLAMA3) == LLAMA3
    assert pattern_of(r"\w+") is None


def test_an_unknown_pattern_is_refused() -> None:
    with pytest.raises(KiaraError, match="pattern"):
        spelling(BPETokenizer([bytes([byte]) for byte in range(256)], r"\w+|\W+").pattern)
