"""What the numbers mean, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.data.batches import Batch
from kiara_cli.core.data.shards import Tokens
from kiara_cli.core.eval.lengths import Lengths
from kiara_cli.core.eval.metrics import Metrics, evaluate, loader_metrics, positions_at_once
from kiara_cli.core.loss import IGNORE, ROWS
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.chat_format import encode_conversation
from kiara_cli.errors import KiaraError

CPU = Runtime(torch.device("cpu"), "fp32", 1)
TOKENIZER = CharTokenizer("".join(map(chr, range(0x61, 0x61 + 56))) + "é你")  # 58 characters, 64 ids

ONE_EACH = Lengths(torch.ones(64, dtype=torch.int64), torch.zeros(64, dtype=torch.bool))


def split(length: int, high: int = 58) -> Tokens:
    return np.random.default_rng(0).integers(0, high, length).astype(np.uint16)


def uniform(config: ModelConfig) -> Transformer:
    """A model that finds every token equally likely."""
    model = Transformer(replace(config, tied_head=False))
    torch.nn.init.zeros_(model.head.weight)
    return model


def test_the_tokenizer_of_these_tests_fits_the_tiny_model(tiny: ModelConfig) -> None:
    assert TOKENIZER.size == tiny.vocab_size


def test_a_uniform_model_loses_the_logarithm_of_the_vocabulary(tiny: ModelConfig) -> None:
    metrics = evaluate(uniform(tiny), split(100), TOKENIZER, CPU, batch_size=3)
    assert metrics.loss == pytest.approx(math.log(64), rel=1e-6)
    assert metrics.perplexity == pytest.approx(64, rel=1e-5)


@pytest.mark.parametrize("length", [2, 16, 17, 18, 33, 100])
def test_the_whole_split_is_counted_once(tiny: ModelConfig, length: int) -> None:
    metrics = evaluate(uniform(tiny), split(length), TOKENIZER, CPU, batch_size=4)
    assert metrics.tokens == length - 1


def test_the_loss_is_what_a_hand_computes(tiny: ModelConfig) -> None:
    model, ids = Transformer(tiny).eval(), split(50)
    nats, correct = 0.0, 0
    for start in range(0, 49, tiny.context_length):
        window = torch.tensor(ids[start : start + tiny.context_length + 1].astype(np.int64))
        with torch.no_grad():
            chances = model(window[None, :-1])[0].double().softmax(-1)
        for row, target in zip(chances, window[1:], strict=True):
            nats -= math.log(row[target].item())
            correct += int(row.argmax() == target)
    metrics = evaluate(model, ids, TOKENIZER, CPU, batch_size=2)
    assert metrics.nats == pytest.approx(nats, rel=1e-5)
    assert (metrics.correct, metrics.accuracy) == (correct, correct / 49)
    assert metrics.loss == pytest.approx(nats / 49, rel=1e-5)


def test_the_batch_size_changes_nothing(tiny: ModelConfig) -> None:
    model = Transformer(tiny)
    one, many = (evaluate(model, split(200), TOKENIZER, CPU, batch_size=size) for size in (1, 32))
    assert one.nats == pytest.approx(many.nats, rel=1e-6)
    assert (one.tokens, one.correct, one.bytes) == (many.tokens, many.correct, many.bytes)


def test_bits_per_byte_are_nats_over_ln_2_over_bytes(tiny: ModelConfig) -> None:
    ids = np.array([0, *TOKENIZER.encode("aé你z"), TOKENIZER.specials["<|endoftext|>"]], dtype=np.uint16)
    metrics = evaluate(uniform(tiny), ids, TOKENIZER, CPU, batch_size=4)
    assert (metrics.tokens, metrics.bytes) == (5, 1 + 2 + 3 + 1)
    assert metrics.bits_per_byte == pytest.approx(5 * math.log2(64) / 7, rel=1e-6)
    assert Metrics(nats=math.log(2) * 10, correct=0, tokens=3, bytes=5).bits_per_byte == pytest.approx(2)


def test_max_tokens_measures_the_beginning(tiny: ModelConfig) -> None:
    model, ids = Transformer(tiny), split(100)
    part = evaluate(model, ids, TOKENIZER, CPU, batch_size=4, max_tokens=40)
    assert part.tokens == 40
    assert part == evaluate(model, ids[:41], TOKENIZER, CPU, batch_size=4)
    assert evaluate(model, ids, TOKENIZER, CPU, batch_size=4, max_tokens=10_000).tokens == 99


def test_a_target_to_ignore_is_not_counted(tiny: ModelConfig) -> None:
    inputs = torch.randint(0, 58, (2, 8))
    targets = torch.randint(0, 58, (2, 8))
    targets[:, ::2] = IGNORE
    metrics = loader_metrics(uniform(tiny), [Batch.of(inputs, targets)], ONE_EACH, CPU)
    assert (metrics.tokens, metrics.bytes) == (8, 8)
    assert metrics.loss == pytest.approx(math.log(64), rel=1e-6)


def test_a_model_in_training_is_measured_without_dropout_and_goes_on_training(tiny: ModelConfig) -> None:
    model = Transformer(replace(tiny, drop_rate=0.5)).train()
    first, second = (evaluate(model, split(60), TOKENIZER, CPU, batch_size=4) for _ in range(2))
    assert first == second
    assert model.training


def test_one_token_is_too_few_to_predict_one(tiny: ModelConfig) -> None:
    with pytest.raises(KiaraError, match="this text is too short"):
        evaluate(uniform(tiny), split(1), TOKENIZER, CPU, batch_size=4)


def talk(answer: str) -> list[int]:
    messages = [{"role": "user", "content": "abc"}, *([{"role": "assistant", "content": answer}] if answer else [])]
    return encode_conversation(messages, TOKENIZER)[0]


def test_documents_and_conversations_are_measured_each_in_full_and_apart(tiny: ModelConfig) -> None:
    document = [TOKENIZER.specials["<|endoftext|>"], *TOKENIZER.encode("abcdefgh" * 5)]
    ids = np.array([*document, *talk("xyz"), *document, *talk("xy")], dtype=np.uint16)
    metrics = evaluate(Transformer(tiny), ids, TOKENIZER, CPU, batch_size=2)
    assert metrics.documents is not None
    assert metrics.conversations is not None
    assert (metrics.documents.tokens, metrics.documents.bytes) == (2 * 41, 2 * 40)
    assert (metrics.conversations.tokens, metrics.conversations.bytes) == (4 + 3, 5)
    assert metrics.tokens == 2 * 41 + 7
    assert metrics.nats == pytest.approx(metrics.documents.nats + metrics.conversations.nats)
    alone = np.array([*document, *document[:1]], dtype=np.uint16)
    expected = evaluate(Transformer(tiny), alone, TOKENIZER, CPU, batch_size=2).tokens
    assert metrics.documents.tokens == 2 * expected


def test_a_text_without_a_target_is_refused_by_its_name(tiny: ModelConfig) -> None:
    """It once had the loss 0, which no model could beat."""
    silent = np.array(talk("") * 3, dtype=np.uint16)
    with pytest.raises(KiaraError, match=r"no target in x\.jsonl: none of its conversations \(3\) has a reply"):
        evaluate(Transformer(tiny), silent, TOKENIZER, CPU, batch_size=2, what="x.jsonl")


@pytest.mark.parametrize("vocab_size", [64, 50_304, 128_256, 20_000_000])
def test_the_logits_that_are_held_are_bounded(vocab_size: int) -> None:
    rows = positions_at_once(vocab_size)
    assert rows % ROWS == 0
    assert rows == ROWS or 4 * rows * vocab_size <= 64 << 20


def test_scoring_in_pieces_changes_nothing_and_holds_no_more(tiny: ModelConfig, monkeypatch) -> None:
    model, ids = Transformer(replace(tiny, tied_head=False)), split(1000)
    whole = evaluate(model, ids, TOKENIZER, CPU, batch_size=32)
    seen: list[int] = []
    model.head.register_forward_hook(lambda head, inputs, logits: seen.append(logits.nbytes))
    monkeypatch.setattr("kiara_cli.core.loss.LOGITS", 100 * 4 * 64)
    parts = evaluate(model, ids, TOKENIZER, CPU, batch_size=32)
    assert max(seen) == ROWS * 4 * 64
    assert len(seen) == 8 + 8 + 1  # 32 windows of 16, 30 of 16 and one of 7
    assert parts.nats == pytest.approx(whole.nats, rel=1e-6)
    assert (parts.tokens, parts.correct, parts.bytes) == (whole.tokens, whole.correct, whole.bytes)


def test_a_hopeless_loss_has_a_finite_perplexity() -> None:
    assert math.isfinite(Metrics(nats=1e6, correct=0, tokens=1, bytes=1).perplexity)
