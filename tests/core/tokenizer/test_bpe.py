"""Byte-pair encoding, compared with the plainest form of itself."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import regex  # type: ignore[import-untyped]
import rustbpe
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from kiara_cli.core.export.patterns import SPELLINGS
from kiara_cli.core.tokenizer import bpe
from kiara_cli.core.tokenizer.bpe import BYTES_PER_MERGE, PATTERN, PIECE, BPETokenizer, split
from kiara_cli.core.tokenizer.protocol import SPECIALS, decode, encode_bytes, fingerprint, incremental_decoder
from kiara_cli.core.tokenizer.report import count_unused, longest_tokens

WORDS = "the quick brown fox jumps over a lazy dog and runs home; it's 2024, née Müller said: «да» 你好\n"
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def corpus(size: int, seed: int = 0) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS.split(" ")) for _ in range(size))


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.fit([corpus(4000)], 320)


def plain_bpe(tokens: list[bytes], piece: bytes) -> list[int]:
    """Merge, again and again, the pair that was learned first: the definition, and nothing else."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    parts = [bytes([byte]) for byte in piece]
    while True:
        pairs = [(ranks.get(a + b, len(tokens)), i) for i, (a, b) in enumerate(pairwise(parts))]
        best, i = min(pairs, default=(len(tokens), 0))
        if best == len(tokens):
            return [ranks[part] for part in parts]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def words(pattern: str, text: str) -> list[str]:
    return regex.findall(pattern, text)


def whole(tokenizer: BPETokenizer, text: str) -> list[int]:
    """Encode without cutting the text into pieces first."""
    ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    return tiktoken.Encoding("whole", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}).encode_ordinary(text)


@given(text=st.text())
def test_any_text_comes_back_as_it_was(tokenizer: BPETokenizer, text: str) -> None:
    assert decode(tokenizer, tokenizer.encode(text)) == text


@given(ids=st.lists(st.integers(0, 319)))
def test_any_ids_can_be_read_also_bit_by_bit(tokenizer: BPETokenizer, ids: list[int]) -> None:
    decoder = incremental_decoder()
    parts = [decoder.decode(tokenizer.token_bytes(token)) for token in ids]
    assert "".join(parts) + decoder.decode(b"", final=True) == decode(tokenizer, ids)


@given(word=st.text(st.sampled_from("theoxfé你"), min_size=1, max_size=12))
def test_the_ids_of_a_word_are_those_of_the_plain_algorithm(tokenizer: BPETokenizer, word: str) -> None:
    assert tokenizer.encode(word) == plain_bpe(tokenizer.tokens, word.encode())


def test_the_ids_of_random_text_are_those_of_the_plain_algorithm(tokenizer: BPETokenizer) -> None:
    for seed in range(20):
        for word in corpus(30, seed).split():
            if word.isalpha():
                assert tokenizer.encode(" " + word) == plain_bpe(tokenizer.tokens, b" " + word.encode())


@given(text=st.text(st.sampled_from("ab1 \t\r\n\u00a0.'"), min_size=1, max_size=80), limit=st.integers(1, 20))
def test_pieces_put_together_are_the_text(text: str, limit: int) -> None:
    pieces = list(split(text, limit))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= limit for piece in pieces)


@settings(max_examples=200)
@given(text=st.text(st.sampled_from("ab1 \t\r\n\u00a0\u0085\u2028\x1c.'"), max_size=60))
def test_a_cut_after_a_newline_changes_no_id(tokenizer: BPETokenizer, text: str) -> None:
    text += "\nx" + text  # there is at least one place to cut
    limit = len(text) - 1
    first = next(split(text, limit))
    if first.endswith("\n") and not text[len(first)].isspace():
        assert whole(tokenizer, first) + whole(tokenizer, text[len(first) :]) == whole(tokenizer, text)


def test_a_text_longer_than_a_piece_has_the_ids_of_the_whole(tokenizer: BPETokenizer) -> None:
    text = "\n".join(corpus(50, seed) for seed in range(1500))
    assert len(text) > PIECE
    assert len(list(split(text))) > 1
    assert tokenizer.encode(text) == whole(tokenizer, text)


def test_a_long_text_in_which_every_line_is_indented_has_the_ids_of_the_whole(tokenizer: BPETokenizer) -> None:
    text = "".join(f"    the quick brown fox\n        jumps over {number} lazy dogs\n" for number in range(9))
    expected = whole(tokenizer, text)
    for limit in range(30, 60):
        pieces = list(split(text, limit))
        assert len(pieces) > 5
        assert [token for piece in pieces for token in whole(tokenizer, piece)] == expected


@settings(max_examples=200)
@given(text=st.text(st.sampled_from("aé1 \t\r\n\u00a0.'/ſ"), max_size=60))
def test_a_cut_between_a_letter_and_a_space_changes_no_id(tokenizer: BPETokenizer, text: str) -> None:
    places = [at for at in range(1, len(text)) if text[at - 1].isalpha() and text[at] == " "]
    for pattern in (*SPELLINGS, O200K):
        for at in places:
            assert words(pattern, text[:at]) + words(pattern, text[at:]) == words(pattern, text)


def test_two_million_spaces_are_fitted_and_encoded() -> None:
    text = " " * 2_000_000
    tokenizer = BPETokenizer.fit([text], 300)
    assert decode(tokenizer, tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", SPECIALS)
def test_the_name_of_a_special_token_is_ordinary_text(tokenizer: BPETokenizer, name: str) -> None:
    ids = tokenizer.encode(f"a {name} b")
    assert not set(ids) & set(tokenizer.specials.values())
    assert decode(tokenizer, ids) == f"a {name} b"


def test_a_large_text_earns_the_whole_vocabulary(tokenizer: BPETokenizer) -> None:
    assert tokenizer.size == 320
    assert tokenizer.tokens[:256] == [bytes([byte]) for byte in range(256)]


def test_a_small_text_earns_fewer_tokens() -> None:
    text = corpus(200)
    small = BPETokenizer.fit([text], 2048)
    assert 256 < len(small.tokens) <= 256 + len(text) // BYTES_PER_MERGE
    assert len(BPETokenizer.fit([""], 2048).tokens) == 256


@given(st.text(st.sampled_from("ab"), min_size=200, max_size=2000))
def test_a_text_of_two_letters_can_be_fitted(text: str) -> None:
    tokenizer = BPETokenizer.fit([text * 4], 400)
    assert decode(tokenizer, tokenizer.encode(text)) == text


def test_the_same_text_gives_the_same_tokenizer(tokenizer: BPETokenizer) -> None:
    assert fingerprint(BPETokenizer.fit([corpus(4000)], 320)) == fingerprint(tokenizer)
    assert fingerprint(BPETokenizer.fit([corpus(4000, seed=1)], 320)) != fingerprint(tokenizer)


def test_special_ids_come_last_and_stand_for_no_bytes(tokenizer: BPETokenizer) -> None:
    assert list(tokenizer.specials.values()) == list(range(315, 320))
    assert all(tokenizer.token_bytes(token) == b"" for token in tokenizer.specials.values())


def test_a_vocabulary_lacks_no_byte_and_repeats_no_token() -> None:
    every = [bytes([byte]) for byte in range(256)]
    for tokens in (every[1:], [*every, b"a"]):
        with pytest.raises(ValueError, match="holds each of the 256 bytes"):
            BPETokenizer(tokens)


def test_an_imported_vocabulary_may_have_holes_and_special_tokens_of_its_own() -> None:
    tokens = [b"", *(bytes([byte]) for byte in range(256)), b"", b"th"]
    specials = {name: 300 + index for index, name in enumerate(SPECIALS)} | {SPECIALS[0]: 0}
    tokenizer = BPETokenizer(tokens, specials=specials, compose=True)
    assert tokenizer.encode("the") == [258, ord("e") + 1]
    assert tokenizer.size == 305
    assert tokenizer.token_bytes(0) == tokenizer.token_bytes(257) == b""
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")
    again = BPETokenizer.from_state(json.loads(json.dumps(tokenizer.state())))
    assert (again.state(), again.specials) == (tokenizer.state(), specials)
    for wrong in ({"<|stranger|>": 0}, specials | {SPECIALS[1]: 0}, specials | {SPECIALS[1]: 5}, {SPECIALS[1]: -1}):
        with pytest.raises(ValueError, match="special"):
            BPETokenizer(tokens, specials=wrong)
    assert tokenizer.encode_array("e\u0301").tolist() == tokenizer.encode("\u00e9")


def test_special_tokens_without_an_id_come_after_all_that_are_taken() -> None:
    tokens = [*(bytes([byte]) for byte in range(256)), b""]
    assert list(BPETokenizer(tokens, specials={SPECIALS[0]: 256}).specials.values()) == [256, 257, 258, 259, 260]
    assert list(BPETokenizer(tokens, specials={SPECIALS[2]: 300}).specials.values()) == [301, 302, 300, 303, 304]


def test_a_state_that_names_only_its_end_of_text_is_read() -> None:
    tokens = [*(bytes([byte]) for byte in range(256)), b""]
    state = BPETokenizer(tokens).state() | {"kind": "gpt2", "end_of_text": 256}
    read = BPETokenizer.from_state(state)
    assert (read.kind, read.size) == ("gpt2", 261)
    assert list(read.specials.values()) == [256, 257, 258, 259, 260]
    assert BPETokenizer.from_state(read.state()).specials == read.specials


def test_a_fitted_vocabulary_is_stored_as_before() -> None:
    tokenizer = BPETokenizer.fit(["the cat " * 100], 300)
    assert tokenizer.state().keys() == {"kind", "pattern", "tokens"}


@settings(max_examples=300)
@given(text=st.text(st.sampled_from("ab'sé1 \t\r\n\u00a0\u2028\x1c\x85.,/\0"), max_size=40))
def test_the_quick_way_gives_the_ids_of_the_plain_way(tokenizer: BPETokenizer, text: str) -> None:
    assert tokenizer.encode_array(text).tolist() == tokenizer.encode(text)


@settings(max_examples=200)
@given(text=st.text())
def test_the_quick_way_gives_the_ids_of_the_plain_way_for_any_text(tokenizer: BPETokenizer, text: str) -> None:
    assert tokenizer.encode_array(text).tolist() == tokenizer.encode(text)
    assert tokenizer.encode_array(f"{text}\ud800").tolist() == tokenizer.encode(f"{text}\ud800")


def test_the_quick_way_agrees_on_source_code(tokenizer: BPETokenizer) -> None:
    for source in (bpe.__file__, random.__file__):
        text = Path(source).read_text(encoding="utf-8")
        assert tokenizer.encode_array(text).tolist() == tokenizer.encode(text)


def test_fitting_the_quick_way_learns_the_tokens_of_the_plain_way(tokenizer: BPETokenizer) -> None:
    code = Path(random.__file__).read_text(encoding="utf-8")
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter([corpus(4000), code]), 600, pattern=PATTERN)
    plain = sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])
    quick = BPETokenizer.fit([corpus(4000), code], 600 + len(SPECIALS))
    assert quick.tokens == list(dict.fromkeys(bytes(token) for token, _ in plain))


@given(raw=st.binary())
def test_any_bytes_come_back_as_they_were(tokenizer: BPETokenizer, raw: bytes) -> None:
    ids = encode_bytes(tokenizer, raw)
    assert b"".join(map(tokenizer.token_bytes, ids)) == raw
    if raw.decode("utf-8", errors="replace").encode() == raw:
        assert ids == tokenizer.encode(raw.decode())


def test_a_vocabulary_is_reported(tokenizer: BPETokenizer) -> None:
    counts = np.bincount(tokenizer.encode_array(corpus(4000)), minlength=tokenizer.size)
    unused = count_unused(tokenizer, counts)
    assert unused == sum(1 for token in range(315) if counts[token] == 0) > 0
    longest = longest_tokens(tokenizer, 3)
    assert len(longest) == 3
    assert len(longest[0].encode()) == max(map(len, tokenizer.tokens))
