from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.generate.engine import Engine, Token
from kiara_cli.core.generate.request import GenerationRequest
from kiara_cli.core.generate.text import (
    Completion,
    Piece,
    TextStream,
    forbidden_ids,
    generate_text,
    stream_text,
)
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, decode
from kiara_cli.errors import KiaraError

BYTES = BPETokenizer([bytes([byte]) for byte in range(256)])  # every id is one byte
END = BYTES.specials[END_OF_TEXT]
STOPS = st.lists(st.text("ab🙂", min_size=1, max_size=4), max_size=3)


class Script:
    """Stands in for an engine: says the ids it was given, as an engine would."""

    context = 16

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = list(ids)
        self.prompt: list[int] = []

    def submit(self, request: GenerationRequest) -> GenerationRequest:
        self.prompt = list(request.prompt)
        return request

    def follow(self, request: GenerationRequest) -> Iterator[Token]:
        for left, token in zip(reversed(range(len(self.ids))), self.ids, strict=True):
            reason: Any = "stop" if token in request.stop_ids else None if left else "length"
            yield Token(token, reason)
            if reason:
                return


def run(ids: Sequence[int], prompt: str = "", **options: Any) -> tuple[list[str], Completion]:
    """Return the pieces and the completion of a scripted generation."""
    engine: Any = Script(ids)
    *pieces, last = generate_text(engine, BYTES, prompt, GenerateConfig(**options))
    assert isinstance(last, Completion)
    texts = [piece.text for piece in pieces if isinstance(piece, Piece)]
    assert len(texts) == len(pieces)
    assert all(texts)
    assert "".join(texts) == last.text
    return texts, last


def first_stop(text: str, stop: Sequence[str]) -> str:
    """Return what precedes the first stop string to be complete; plainly, one character after the other."""
    for end in range(len(text) + 1):
        endings = [s for s in stop if text[:end].endswith(s)]
        if endings:
            return text[: end - max(map(len, endings))]
    return text


def chunked(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(edges)]


@given(st.text("ab🙂", max_size=20), STOPS, st.lists(st.integers(0, 100)))
def test_the_text_up_to_the_first_stop_string_comes_out_however_it_was_cut(
    text: str, stop: list[str], cuts: list[int]
) -> None:
    stream = TextStream(stop)
    out = "".join(stream.push(chunk) for chunk in chunked(text.encode(), cuts))
    out += stream.flush()
    assert out == first_stop(text, stop)
    assert stream.stopped == any(s in text for s in stop)


@given(st.binary(max_size=20), st.lists(st.integers(0, 100)))
def test_bytes_that_are_no_text_come_out_as_if_decoded_at_once(data: bytes, cuts: list[int]) -> None:
    stream = TextStream()
    out = "".join(stream.push(chunk) for chunk in chunked(data, cuts)) + stream.flush()
    assert out == data.decode(errors="replace")


@given(st.text("ab🙂", max_size=20), STOPS)
def test_only_what_could_begin_a_stop_string_is_held_back(text: str, stop: list[str]) -> None:
    stream, shown = TextStream(stop), ""
    for end in range(1, len(text) + 1):
        shown += stream.push(text[end - 1].encode())
        if stream.stopped:
            return
        held = text[:end].removeprefix(shown)
        assert held == "" or any(s.startswith(held) and s != held for s in stop)


def test_the_stop_string_that_is_complete_first_counts() -> None:
    for chunks in ([b"abcd"], [b"a", b"b", b"c", b"d"]):
        stream = TextStream(["abcd", "bc", "c"])
        assert "".join(map(stream.push, chunks)) == "a"


def test_half_a_character_is_never_shown() -> None:
    stream = TextStream()
    assert [stream.push(bytes([byte])) for byte in "🙂".encode()] == ["", "", "", "🙂"]


def test_a_stop_string_may_span_pieces() -> None:
    stream = TextStream(["\nUser:"])
    assert [stream.push(chunk) for chunk in (b"Hi\nUs", b"age\nUse", b"r: no")] == ["Hi", "\nUsage", ""]
    assert stream.stopped
    assert stream.push(b"more") == stream.flush() == ""


def test_flush_returns_what_was_held_back_and_marks_an_unfinished_character() -> None:
    stream = TextStream(["end."])
    assert stream.push(b"the en") == "the "
    assert stream.flush() == "en"
    assert stream.push("é".encode()[:1]) == ""
    assert stream.flush() == "\ufffd"


def test_an_empty_stop_string_is_an_error() -> None:
    with pytest.raises(KiaraError, match=r"generate\.stop"):
        GenerateConfig(stop=("a", ""))


def test_an_emoji_split_over_tokens_comes_in_one_piece() -> None:
    pieces, last = run(list("a🙂b".encode()))
    assert pieces == ["a", "🙂", "b"]
    assert (last.finish_reason, last.completion_tokens) == ("length", 6)


def test_a_stop_string_ends_the_text_and_the_sampling() -> None:
    _, last = run(list(b"one. two."), stop=(". ",))
    assert last.text == "one"
    assert (last.finish_reason, last.completion_tokens) == ("stop", 5)


def test_text_held_back_comes_when_the_tokens_end() -> None:
    for ids, reason in ((list(b"abc"), "length"), ([*b"abc", END, *b"x"], "stop")):
        pieces, last = run(ids, stop=("bcd",))
        assert pieces == ["a", "bc"]
        assert last.finish_reason == reason


def test_a_stop_string_completed_by_the_last_bytes_is_a_stop() -> None:
    _, last = run([*b"a", "é".encode()[0]], stop=("\ufffd",))
    assert (last.text, last.finish_reason) == ("a", "stop")


def test_a_document_that_ends_at_once_is_an_empty_text() -> None:
    pieces, last = run([END])
    assert (pieces, last.text, last.finish_reason) == ([], "", "stop")


def test_an_empty_prompt_starts_a_document_and_any_other_is_read_as_it_is() -> None:
    for prompt, ids in (("", [END]), (" ", [32]), ("<|end|>", list(b"<|end|>"))):
        engine: Any = Script([97])
        *_, last = generate_text(engine, BYTES, prompt, GenerateConfig())
        assert engine.prompt == ids
        assert isinstance(last, Completion)
        assert last.prompt_tokens == len(ids)


def test_the_bytes_of_a_stop_id_are_no_text() -> None:
    engine: Any = Script(list(b"ab."))
    *_, last = stream_text(engine, BYTES, [1], GenerateConfig(), frozenset(b"."))
    assert isinstance(last, Completion)
    assert (last.text, last.finish_reason) == ("ab", "stop")


def test_a_text_may_end_at_other_ids_as_well() -> None:
    engine: Any = Script([*b"ab", BYTES.specials["<|end|>"], *b"c"])
    *_, last = generate_text(engine, BYTES, "x", GenerateConfig(), frozenset({BYTES.specials["<|end|>"]}))
    assert isinstance(last, Completion)
    assert (last.text, last.finish_reason) == ("ab", "stop")


def test_the_clock_of_a_completion_is_consistent() -> None:
    _, last = run(list(b"abc"))
    assert 0 < last.first_token_seconds <= last.seconds
    assert last.tokens_per_second == pytest.approx(3 / last.seconds)


def test_a_real_engine_says_what_its_ids_decode_to() -> None:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=320, context_length=16, emb_dim=32, n_heads=4, n_layers=2)
    engine = Engine(Transformer(config), Runtime(torch.device("cpu"), "fp32", 1), forbidden_ids(BYTES, 320))
    settings = GenerateConfig(max_new_tokens=100, temperature=3.0, seed=1)
    *_, last = generate_text(engine, BYTES, "once", settings)
    ids = [token.id for token in engine.generate(list(b"once"), settings, frozenset({END}))]
    assert isinstance(last, Completion)
    assert (last.text, last.completion_tokens) == (decode(BYTES, ids), len(ids))
    assert max(ids) <= END


def test_only_ids_that_stand_for_text_or_end_it_are_allowed() -> None:
    char = CharTokenizer("abc")
    mask = forbidden_ids(char, 16)
    assert mask.shape == (16,)
    assert (~mask).nonzero().flatten().tolist() == [0, 1, 2, char.specials[END_OF_TEXT]]
    assert (~forbidden_ids(BYTES, BYTES.size)).nonzero().flatten().tolist() == [*range(256), END]
