"""tokenizer.json and back, held against Hugging Face's own library."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from kiara_cli.core.export import tokenizer as export
from kiara_cli.core.export.patterns import GPT2, LLAMA3
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
    again = export.from_json(export.to_json(gaps, gaps.specials), None, "x")
    assert again.specials == gaps.specials


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


def test_it_comes_back_as_the_same_tokenizer(tokenizer: BPETokenizer) -> None:
    written = export.to_json(tokenizer, tokenizer.specials)
    assert export.from_json(json.loads(json.dumps(written)), None, "x").state() == tokenizer.state()


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


def foreign(normalizer: Any = None) -> Tokenizer:
    """Train a tokenizer with Hugging Face's library, whose special tokens stand before the bytes."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    wanted = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["the cat's mat, the dog's log: 12 cats and über dogs e\u0301"] * 20, wanted)
    return made


def test_a_foreign_vocabulary_with_special_tokens_first_gives_the_same_ids(strings: list[str]) -> None:
    theirs = foreign()
    size = theirs.get_vocab_size()
    ours = export.from_json(json.loads(theirs.to_str()), 0, "x")
    assert ours.pattern == GPT2
    assert ours.specials[END_OF_TEXT] == 0
    assert sorted(ours.specials.values())[1:] == list(range(size, size + 4))  # marks it lacks come after its own ids
    assert ours.size == size + 4
    for text in strings:
        assert ours.encode(text) == theirs.encode(text).ids
    assert BPETokenizer.from_state(json.loads(json.dumps(ours.state()))).encode("the cat") == ours.encode("the cat")


def test_a_vocabulary_that_composes_text_first_does_so_here_too() -> None:
    theirs = foreign(normalizers.NFC())
    ours = export.from_json(json.loads(theirs.to_str()), 0, "x")
    assert ours.encode("e\u0301t\u00e9") == theirs.encode("e\u0301t\u00e9").ids == ours.encode("\u00e9t\u00e9")
    again = Tokenizer.from_str(json.dumps(export.to_json(ours, ours.specials)))
    assert again.encode("e\u0301 x").ids == theirs.encode("e\u0301 x").ids


def test_the_models_end_of_text_is_the_end_of_text() -> None:
    written = json.loads(foreign().to_str())
    written["added_tokens"][0]["content"] = "</s>"
    assert export.from_json(written, 0, "x").specials[END_OF_TEXT] == 0
    assert export.from_json(written, 7, "x").specials[END_OF_TEXT] == foreign().get_vocab_size()  # 7 is none
    assert set(export.from_json(written, None, "x").specials) == set(SPECIALS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "Metaspace"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "ByteLevel"),
        ({"pre_tokenizer": None}, "None"),
        ({"model.type": "WordPiece"}, "WordPiece"),
        ({"model.byte_fallback": True}, "byte_fallback"),
        ({"model.vocab": {"a": 5}}, "byte"),
        ({"model.vocab": {"漢": 5}}, "漢"),
        ({"model.vocab": {"a": 10**12}}, "out of range"),
        ({"model.vocab": {"a": "__import__('os').system('touch ran')"}}, "byte-level"),
        ({"model.merges": [["t", "h"], ["x", "nowhere"]]}, "byte-level"),
        ({"model.merges": "reversed"}, "order"),
        ({"model": 3}, "byte-level"),
    ],
)
def test_what_kiara_has_no_equal_of_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    value = copy.deepcopy(json.loads(foreign().to_str()))
    for key, new in change.items():
        place = value["model"] if key.startswith("model.") else value
        key = key.removeprefix("model.")
        place[key] = place[key][::-1] if new == "reversed" else new
    with pytest.raises(KiaraError, match=named):
        export.from_json(value, None, "x")
    assert not Path("ran").exists()


def test_llama_3s_split_is_known() -> None:
    value = json.loads(foreign().to_str())
    split = {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}
    value["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [split, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}],
    }
    assert export.from_json(value, None, "x").pattern == LLAMA3
    split["behavior"] = "Removed"
    with pytest.raises(KiaraError, match="pre-tokenizer"):
        export.from_json(value, None, "x")
