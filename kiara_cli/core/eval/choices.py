"""How likely a model finds texts after others, many at a time: what multiple-choice questions are scored by.

In: pairs of a context and its continuation. Out: for each the log-likelihood of the continuation and whether it is
what the model would have written greedily. The ids of a pair are split as lm-evaluation-harness splits them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from kiara_cli.core.loss import positions_at_once
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.protocol import Tokenizer, prompt_ids


@dataclass(frozen=True)
class Pair:
    """Ids, of which those from `first` on are scored; at least one stands before them."""

    ids: Sequence[int]
    first: int


@dataclass(frozen=True)
class Likelihood:
    logprob: float  # nats
    greedy: bool  # each id was the likeliest
    tokens: int  # that were scored


@dataclass(frozen=True)
class _Row:
    """A window over a pair: the model reads `ids`, and the last `scored` of the ids that follow them count."""

    pair: int
    ids: Sequence[int]  # the last one is only predicted
    scored: int


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Pair:
    """Encode a context and its continuation as one text; white space between them belongs to the continuation.

    An empty context is the beginning of a document.
    """
    stripped = context.rstrip()
    continuation, context = context[len(stripped) :] + continuation, stripped
    before = prompt_ids(tokenizer, context)
    whole = [*tokenizer.prefix, *tokenizer.encode(context + continuation)] if context else []
    if len(whole) <= len(before):  # nothing to split, or the two have merged into the ids of the context alone
        whole = [*before, *tokenizer.encode(continuation)]
    return Pair(whole, len(before))


@torch.inference_mode()
def log_likelihoods(
    model: Transformer, runtime: Runtime, pairs: Sequence[Pair], batch_size: int
) -> Iterator[tuple[int, Likelihood]]:
    """Yield the number of a pair and its likelihood, the longest pairs first.

    The context of a pair that is longer than the model reads loses its beginning; a continuation that is longer is
    scored in pieces, each after as much as the model reads.
    """
    was_training = model.training
    model.eval()
    context = model.config.context_length
    rows = [row for number, pair in enumerate(pairs) for row in _rows(number, pair, context)]
    open_ = Counter(row.pair for row in rows)
    sums, greedy = [0.0] * len(pairs), [True] * len(pairs)
    rows.sort(key=lambda row: -len(row.ids))
    waiting = iter(rows)
    while some := list(islice(waiting, batch_size)):
        for row, logprob, best in zip(some, *_score(model, runtime, some), strict=True):
            sums[row.pair] += logprob
            greedy[row.pair] &= best
            open_[row.pair] -= 1
            if not open_[row.pair]:
                pair = pairs[row.pair]
                yield row.pair, Likelihood(sums[row.pair], greedy[row.pair], len(pair.ids) - pair.first)
    model.train(was_training)


def _rows(number: int, pair: Pair, context: int) -> Iterator[_Row]:
    """Cut a pair into windows that end with at most `context` scored ids."""
    assert 0 < pair.first < len(pair.ids)
    for first in range(pair.first, len(pair.ids), context):
        end = min(first + context, len(pair.ids))
        yield _Row(number, pair.ids[max(0, end - context - 1) : end], end - first)


def _score(model: Transformer, runtime: Runtime, rows: Sequence[_Row]) -> tuple[list[float], list[bool]]:
    """Return the log-probability of each row's scored ids, and whether all were the likeliest."""
    assert model.config.vocab_size is not None
    longest = max(len(row.ids) for row in rows) - 1
    inputs = torch.zeros(len(rows), longest, dtype=torch.int64)  # what stands behind a row is read by nothing before
    places: list[Tensor] = []
    for index, row in enumerate(rows):
        inputs[index, : len(row.ids) - 1] = torch.tensor(row.ids[:-1])
        places.append(index * longest + torch.arange(len(row.ids) - 1 - row.scored, len(row.ids) - 1))
    targets = torch.tensor([token for row in rows for token in row.ids[-row.scored :]], device=runtime.device)
    with runtime.precision():
        states = model.states(inputs.to(runtime.device)).flatten(0, 1)[torch.cat(places).to(runtime.device)]
    logprobs, best = [], []
    at_once = positions_at_once(model.config.vocab_size)
    for part, wanted in zip(torch.split(states, at_once), torch.split(targets, at_once), strict=True):
        with runtime.precision():
            logits = model.unembed(part).float()  # (n, V)
        logprobs.append(logits.log_softmax(-1).gather(1, wanted[:, None]).squeeze(1).cpu().double())
        best.append((logits.argmax(-1) == wanted).cpu())
    sizes = [row.scored for row in rows]
    sums = [float(part.sum()) for part in torch.split(torch.cat(logprobs), sizes)]
    return sums, [bool(part.all()) for part in torch.split(torch.cat(best), sizes)]
