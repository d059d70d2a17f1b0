"""GGUF files: what is written can be read back, and llama.cpp computes the same from it."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf as package
import numpy as np
import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.export import gguf
from kiara_cli.core.export.check import GELU_TOLERANCE, TOLERANCES, check_export
from kiara_cli.core.export.oracles import LlamaCpp
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.chat_format import encode_prompt
from kiara_cli.errors import KiaraError

Make = Callable[..., Any]
QUANTS = ("f32", "f16", "bf16", "q8_0", "q4_0")


@pytest.fixture(scope="module", params=[True, False], ids=["jinja", "no jinja"])
def llama_cpp(
    make: Make, tokenizer: BPETokenizer, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> LlamaCpp:
    """llama.cpp with the default architecture in it; it writes conversations by their template, or by guess."""
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    config, _, weights = make()
    with gguf.writing(config, weights, tokenizer, path, conversations=True):
        pass
    return LlamaCpp(path, config.context_length, jinja=request.param)


def held_out(tokenizer: BPETokenizer) -> np.ndarray[Any, np.dtype[np.uint32]]:
    ids: list[int] = []
    for text in ("The cat's log is on the mat.\n", "über 12 dogs", "bananas and 漢 things " * 20):
        ids += [tokenizer.specials["<|endoftext|>"], *tokenizer.encode(text)]
    return np.array(ids, dtype=np.uint32)


def test_llama_cpp_computes_the_same(kind: str, make: Make, tokenizer: BPETokenizer, tmp_path: Path) -> None:
    config, _, weights = make(kind)
    if kind == "gpt2-relu2":
        with (
            pytest.raises(KiaraError, match=r"GGUF .*model.feedforward=relu2"),
            gguf.writing(config, weights, tokenizer, tmp_path / "x.gguf"),
        ):
            pass
        assert list(tmp_path.iterdir()) == []
        return
    with gguf.writing(config, weights, tokenizer, tmp_path / "x.gguf") as path:
        assert not (tmp_path / "x.gguf").exists()
        back = gguf.read_weights(path, config)
        assert back.keys() == weights.keys()
        exact = {name for name in weights if kind != "gemma" or "norm" not in name}  # those are kept as 1 + weight
        assert all(torch.equal(back[name], weights[name]) for name in exact)
        assert all((back[name] - weights[name]).abs().max() < 1e-6 for name in weights)
        report = check_export("gguf", path, "f32", config, weights, tokenizer, held_out(tokenizer))
    assert report.passed, report
    assert report.texts == 3
    assert report.steps >= 8
    assert report.tolerance == (GELU_TOLERANCE if kind.startswith("g") else TOLERANCES["f32"])


@pytest.mark.parametrize("quant", QUANTS[1:])
def test_fewer_bits_are_the_rounded_weights(quant: str, make: Make, tokenizer: BPETokenizer, tmp_path: Path) -> None:
    config, _, weights = make()
    with gguf.writing(config, weights, tokenizer, tmp_path / "x.gguf", quant) as path:
        back = gguf.read_weights(path, config)
        report = check_export("gguf", path, quant, config, weights, tokenizer, held_out(tokenizer))
    assert report.passed, report
    assert report.texts_equal == 3
    bits = {"f16": 11, "bf16": 8, "q8_0": 7, "q4_0": 3}
    for name, weight in weights.items():
        largest = weight.abs().max()
        kept = 7 if quant == "q4_0" and name == "tokens.weight" else bits[quant]
        exact = weight.dim() < 2
        assert (back[name] - weight).abs().max() <= (0 if exact else largest / 2**kept), name
    sizes = {
        tensor.name: tensor.tensor_type.name.lower() for tensor in package.GGUFReader(tmp_path / "x.gguf").tensors
    }
    assert sizes["blk.0.ffn_up.weight"] == quant
    assert sizes["output_norm.weight"] == "f32"


def test_a_check_notices_weights_that_are_not_those_of_the_model(
    make: Make, tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    config, _, weights = make()
    wrong = weights | {"norm.weight": weights["norm.weight"] * 1.1}
    with gguf.writing(config, wrong, tokenizer, tmp_path / "x.gguf") as path:
        report = check_export("gguf", path, "f32", config, weights, tokenizer, held_out(tokenizer))
    assert not report.passed
    assert report.largest_difference > report.tolerance


def test_llama_cpp_gives_the_same_ids(llama_cpp: LlamaCpp, tokenizer: BPETokenizer, strings: list[str]) -> None:
    for text in random.Random(0).sample([text for text in strings if text], 300):
        assert llama_cpp.encode(text) == [tokenizer.start, *tokenizer.encode(text)]


def test_llama_cpp_writes_conversations_as_kiara_does_with_jinja_and_without(
    llama_cpp: LlamaCpp, tokenizer: BPETokenizer
) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Hi,\n  the cat\n"},
        {"role": "assistant", "content": "It's 漢."},
        {"role": "user", "content": "12345"},
    ]
    for talk in (messages[1:2], messages[:2], messages):
        assert llama_cpp.encode_talk(talk) == encode_prompt(talk, tokenizer)
    done = llama_cpp.ask("v1/chat/completions", {"messages": messages[1:2], "max_tokens": 1})
    assert done["usage"]["prompt_tokens"] == len(encode_prompt(messages[1:2], tokenizer))


def test_marks_are_control_tokens_and_end_a_turn(make: Make, tokenizer: BPETokenizer, tmp_path: Path) -> None:
    config, _, weights = make()
    with gguf.writing(config, weights, tokenizer, tmp_path / "x.gguf", name="tales", conversations=True):
        pass
    fields = package.GGUFReader(tmp_path / "x.gguf").fields
    marks, value = tokenizer.specials, lambda key: fields[key].contents()
    kinds = value("tokenizer.ggml.token_type")
    assert {token for token, kind in enumerate(kinds) if kind == package.TokenType.CONTROL} == set(marks.values())
    unused = [token for token, kind in enumerate(kinds) if kind == package.TokenType.UNUSED]
    assert unused == list(range(tokenizer.size, 448))
    assert value("tokenizer.ggml.pre") == "llama-bpe"
    assert value("tokenizer.ggml.eos_token_id") == marks["<|endoftext|>"]
    assert value("tokenizer.ggml.eot_token_id") == marks["<|end|>"]
    assert value("tokenizer.ggml.add_bos_token") is True
    assert value("general.name") == "tales"
    assert value("qwen3.attention.key_length") == 16


def test_what_gguf_cannot_express_is_an_error_that_says_so(
    make: Make, tokenizer: BPETokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(config: ModelConfig, weights: Any, spoken: Any, name: str, quant: str = "f32") -> str:
        with pytest.raises(KiaraError) as error, gguf.writing(config, weights, spoken, tmp_path / name, quant):
            pass
        assert list(tmp_path.iterdir()) == []
        return str(error.value)

    config, _, weights = make()
    assert "tokenizer.kind=char" in refused(config, weights, CharTokenizer.ascii(), "x.gguf")
    assert ".gguf" in refused(config, weights, tokenizer, "x.bin")
    odd, _, uneven = make(hidden_dim=100)
    assert "blocks of 32" in refused(odd, uneven, tokenizer, "x.gguf", "q8_0")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "kiara-slm[export]" in refused(config, weights, tokenizer, "x.gguf")
