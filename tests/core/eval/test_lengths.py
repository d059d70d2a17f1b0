"""Bits per byte, computed by hand from the text, for tokenizers that keep all of it and for those that do not."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.eval.lengths import byte_lengths
from kiara_cli.core.eval.metrics import evaluate
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer import pretrained
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.core.tokenizer.word import WordTokenizer

CPU = Runtime(torch.device("cpu"), "fp32", 1)
CACHE = Path(__file__).parents[3] / "../shared/tiktoken"
TEXT = "Der Bär läuft über die Straße. 猫が走る! 🦊 The bear runs over the road, and the fox runs after it.\n" * 3
FITTED = (
    "The bear runs over the road, and the dog läuft.\n" * 9
)  # what the lossy tokenizers know: no ß, no 猫, no fox


def gpt2() -> Tokenizer:
    if not os.environ.get("TIKTOKEN_CACHE_DIR"):
        pytest.skip("needs the ranks of gpt2 in TIKTOKEN_CACHE_DIR")
    return pretrained.load("gpt2")


TOKENIZERS = {
    "char": lambda: CharTokenizer.fit([TEXT]),
    "char that lacks some": lambda: CharTokenizer.fit([FITTED]),
    "word": lambda: WordTokenizer.fit([TEXT], 300),
    "word that lacks some": lambda: WordTokenizer.fit([FITTED], 300),
    "bpe": lambda: BPETokenizer.fit([TEXT * 200], 300),
    "gpt2": gpt2,
}
LACKING = {"char that lacks some", "word that lacks some"}


def by_hand(model: Transformer, ids: list[int]) -> list[float]:
    """Return the bits of each id but the first, in windows that do not overlap, with a plain softmax in float64."""
    bits, context = [], model.config.context_length
    for start in range(0, len(ids) - 1, context):
        window = ids[start : start + context + 1]
        with torch.no_grad():
            logits = model(torch.tensor([window[:-1]]))[0].double()
        for row, target in zip(logits, window[1:], strict=True):
            bits.append(float((row - row.max()).exp().sum().log() + row.max() - row[target]) / math.log(2))
    return bits


@pytest.mark.parametrize("name", TOKENIZERS)
def test_bits_per_byte_are_those_of_the_text_whatever_the_tokenizer(
    tiny: ModelConfig, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a tokenizer has no id for costs 8 bits a byte: leaving text out gains nothing."""
    if CACHE.is_dir():
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(CACHE))
    tokenizer = TOKENIZERS[name]()
    model = Transformer(replace(tiny, vocab_size=tokenizer.size)).eval()
    ids = [tokenizer.start, *tokenizer.encode(TEXT)]
    size = len(TEXT.encode("utf-8"))
    array = np.array(ids, dtype=np.uint32)
    found = evaluate(model, array, tokenizer, CPU, 3, lengths=byte_lengths(tokenizer, array, size))

    bits = sum(by_hand(model, ids))
    if name.startswith("char"):
        lost = sum(len(c.encode()) for c in TEXT if c not in tokenizer.characters)  # type: ignore[attr-defined]
    elif name.startswith("word"):
        said = sum(len(w.encode()) for i in ids for w in tokenizer.words[i : i + 1])  # type: ignore[attr-defined]
        lost = size - said
    else:
        lost = 0
    assert (lost > 0) == (name in LACKING)
    assert (found.bytes, found.unknown_bytes) == (size, lost)
    assert found.bits_per_byte == pytest.approx((bits + 8 * lost) / size, rel=1e-5)


def test_a_text_that_is_all_unknown_is_no_bargain(tiny: ModelConfig) -> None:
    """It cost almost nothing: one unknown token after another is easily learned."""
    tokenizer = CharTokenizer("a")
    model = Transformer(replace(tiny, vocab_size=tokenizer.size, tied_head=False))
    torch.nn.init.zeros_(model.head.weight)
    ids = np.array([tokenizer.start, *tokenizer.encode("猫" * 50)], dtype=np.uint16)
    found = evaluate(model, ids, tokenizer, CPU, 4, lengths=byte_lengths(tokenizer, ids, 150))
    assert (found.unknown, found.unknown_bytes, found.bytes) == (50, 150, 150)
    assert found.bits_per_byte == pytest.approx(8 + math.log2(7) / 3, rel=1e-5)
