"""tokenizer.json and back, held against Hugging Face's own library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from kiara_cli.core.export import tokenizer as export
from kiara_cli.core.tokenizer import pretrained
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, SPECIALS
from kiara_cli.core.tokenizer.word import WordTokenizer
from kiara_cli.errors import KiaraError

CACHE = Path(__file__).parents[3] / "../shared/tiktoken"


def opened(tokenizer: Any) -> Tokenizer:
    """Open what is written as Hugging Face's library does."""
    made = Tokenizer.from_str(json.dumps(export.to_json(tokenizer, tokenizer.specials)))
    made.encode_special_tokens = True  # as Kiara reads text: no mark comes from it
    return made


def test_ids_are_the_same_over_random_unicode(tokenizer: BPETokenizer, strings: list[str]) -> None:
    theirs = opened(tokenizer)
    for text in strings:
        assert theirs.encode(text).ids == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text


@given(st.text("ab ", max_size=60))
def test_runs_of_letters_that_overlap_in_many_ways_merge_alike(text: str) -> None:
    tokenizer = BPETokenizer.fit(["aaaa aaaaaaaaa abababab baabaab aabbaabb bbbb " * 300], 300)
    assert len(tokenizer.tokens) > 270
    assert opened(tokenizer).encode(text).ids == tokenizer.encode(text)


def test_a_character_tokenizer_is_expressed_too(strings: list[str]) -> None:
    tokenizer = CharTokenizer.fit(["the cat\n漢\r\t'e\u0301"])
    theirs = opened(tokenizer)
    for text in strings[:200]:
        assert theirs.encode(text).ids == tokenizer.encode(text)


def test_special_tokens_keep_their_ids_where_others_stand_for_no_text(tokenizer: BPETokenizer) -> None:
    size = len(tokenizer.tokens)
    gaps = BPETokenizer([*tokenizer.tokens, b"", b"", b""], specials={END_OF_TEXT: size + 1})
    theirs = opened(gaps)
    assert {mark: theirs.token_to_id(mark) for mark in SPECIALS} == gaps.specials
    assert gaps.specials[END_OF_TEXT] == size + 1
    for mark in SPECIALS:
        assert theirs.encode(f"the {mark}").ids == gaps.encode(f"the {mark}")


@pytest.mark.skipif(not CACHE.is_dir(), reason="tiktoken's files are not on this machine")
@pytest.mark.parametrize("name", ["gpt2", "cl100k_base"])
def test_a_pretrained_encoding_is_expressed_too(
    name: str, strings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(CACHE))
    tokenizer = pretrained.load(name)
    theirs = opened(tokenizer)
    for text in strings[:500]:
        assert theirs.encode(text).ids == tokenizer.encode(text)
    assert {mark: theirs.token_to_id(mark) for mark in SPECIALS} == tokenizer.specials


def test_words_and_unknown_patterns_are_refused(tokenizer: BPETokenizer) -> None:
    with pytest.raises(KiaraError, match="cannot express tokenizer.kind=word"):
        export.check(WordTokenizer.fit(["the cat"], 20))
    with pytest.raises(KiaraError, match="a pattern that other programs do not know"):
        export.check(BPETokenizer(tokenizer.tokens, "."))


def test_the_chat_template_is_written_where_conversations_were_learned(
    tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    for conversations in (False, True):
        folder = tmp_path / str(conversations)
        with export.writing(tokenizer, folder, 64, conversations):
            pass
        about = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        assert ("chat_template" in about) == conversations


def test_vocabulary_and_merges_are_those_of_tokenizer_json(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    with export.writing(tokenizer, tmp_path / "out", 64) as folder:
        assert not (tmp_path / "out").exists()
        assert folder.is_dir()
    vocabulary = json.loads((tmp_path / "out/vocab.json").read_text(encoding="utf-8"))
    lines = (tmp_path / "out/merges.txt").read_text(encoding="utf-8").splitlines()
    whole = json.loads((tmp_path / "out/tokenizer.json").read_text(encoding="utf-8"))
    assert vocabulary == whole["model"]["vocab"] | tokenizer.specials
    assert [line.split(" ") for line in lines[1:]] == whole["model"]["merges"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
