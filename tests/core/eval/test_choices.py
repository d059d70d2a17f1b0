"""Many pairs at a time are scored as each would be alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.eval.choices import Pair, encode_pair, log_likelihoods
from kiara_cli.core.generate.score import Scorer
from kiara_cli.core.generate.text import make_engine
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.char import CharTokenizer

CPU = Runtime(torch.device("cpu"), "fp32", 1)


def alone(model: Transformer, ids: Sequence[int], first: int) -> tuple[float, bool]:
    """Score ids from `first` on, one forward pass for each, in float64."""
    total, greedy = 0.0, True
    for place in range(first, len(ids)):
        with torch.no_grad():
            logits = model(torch.tensor([ids[:place]]))[0, -1].double()
        total += float(logits[ids[place]] - logits.logsumexp(0))
        greedy &= int(logits.argmax()) == ids[place]
    return total, greedy


def test_a_batch_is_scored_as_each_pair_alone_and_as_over_http(tiny: ModelConfig) -> None:
    model = Transformer(tiny).eval()
    draw = torch.Generator().manual_seed(3)
    pairs = []
    for length in (2, 3, 7, 16, 17, 5, 12, 2, 17):
        ids = torch.randint(0, 58, (length,), generator=draw).tolist()
        pairs.append(Pair(ids, int(torch.randint(1, length, (1,), generator=draw))))
    with torch.no_grad():
        best = int(model(torch.tensor([[5, 6]]))[0, -1].argmax())
    pairs.append(Pair([5, 6, best], 2))
    engine = make_engine(model, CharTokenizer("".join(map(chr, range(0x61, 0x61 + 58)))), CPU)
    for size in (1, 3, 32):
        found = dict(log_likelihoods(model, CPU, pairs, size))
        for number, pair in enumerate(pairs):
            logprob, greedy = alone(model, pair.ids, pair.first)
            assert found[number].logprob == pytest.approx(logprob, abs=1e-4)
            assert (found[number].greedy, found[number].tokens) == (greedy, len(pair.ids) - pair.first)
            if len(pair.ids) <= 16:
                scorer = Scorer(engine, pair.ids, 0)
                while not scorer.done:
                    scorer.step()
                served = sum(token.logprob or 0.0 for token in scorer.tokens[pair.first :])
                assert served == pytest.approx(found[number].logprob, abs=1e-4)
    assert found[len(pairs) - 1].greedy


def test_what_is_longer_than_the_model_reads_loses_its_beginning_and_nothing_that_is_scored(
    tiny: ModelConfig,
) -> None:
    model = Transformer(tiny).eval()
    ids = torch.randint(0, 58, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    (kept,) = dict(log_likelihoods(model, CPU, [Pair(ids, 50)], 4)).values()
    assert kept.logprob == pytest.approx(alone(model, ids[60 - 17 :], 17 - 10)[0], abs=1e-4)
    (pieces,) = dict(log_likelihoods(model, CPU, [Pair(ids, 20)], 4)).values()
    wanted = [alone(model, ids[end - 17 : end], 17 - scored)[0] for end, scored in ((36, 16), (52, 16), (60, 8))]
    assert pieces.logprob == pytest.approx(math.fsum(wanted), abs=1e-4)
    assert pieces.tokens == 40


def test_context_and_continuation_are_split_where_the_text_of_both_is() -> None:
    tokenizer = BPETokenizer.fit(["the cat sat on the mat and the dog sat on the log\n" * 400], 300)
    for context, continuation in (("the cat", " sat"), ("the cat ", "sat"), ("the ca", "t sat"), ("", "the cat")):
        pair = encode_pair(tokenizer, context, continuation)
        text = b"".join(map(tokenizer.token_bytes, pair.ids))
        assert text.decode() == context + continuation
        assert 0 < pair.first < len(pair.ids)
    spaced, moved = (encode_pair(tokenizer, *words) for words in (("the cat", " sat"), ("the cat ", "sat")))
    assert spaced == moved
    assert encode_pair(tokenizer, "", "the").ids[0] == tokenizer.start
