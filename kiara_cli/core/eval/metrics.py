"""A model and held-out tokens to loss, perplexity, bits per byte and accuracy.

Every token of a document but the first is predicted exactly once, in windows that do not overlap; of conversations
what the assistant says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from kiara_cli.core.data.batches import IGNORE, Batch
from kiara_cli.core.data.packing import PackedBatcher
from kiara_cli.core.data.segments import Contents, holds_conversations
from kiara_cli.core.data.shards import Tokens
from kiara_cli.core.data.windows import eval_windows
from kiara_cli.core.loss import cross_entropy, positions_at_once, where_targets
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.adaptive import Threads
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.protocol import Tokenizer


@dataclass(frozen=True)
class Metrics:
    """Sums over all predicted tokens, and what follows from them."""

    nats: float
    correct: int
    tokens: int
    bytes: int  # of the text that those tokens stand for
    documents: Metrics | None = None  # the same of documents alone, where there are conversations too
    conversations: Metrics | None = None

    @property
    def loss(self) -> float:
        """Cross-entropy in nats per token."""
        return self.nats / max(1, self.tokens)

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Cross-entropy in bits per byte of text: comparable across tokenizers."""
        return self.nats / math.log(2) / max(1, self.bytes)

    @property
    def accuracy(self) -> float:
        """How often the likeliest token was the right one."""
        return self.correct / max(1, self.tokens)


def evaluate(
    model: Transformer,
    tokens: Tokens,
    tokenizer: Tokenizer,
    runtime: Runtime,
    batch_size: int,
    max_tokens: int | None = None,
    what: str = "this text",
) -> Metrics:
    """Measure a model over the whole of `tokens`, or over the first `max_tokens`.

    Of conversations what the assistant says is measured, documents in full. Raises KiaraError, naming `what` is
    measured, if there is no target in it.
    """
    part = tokens if max_tokens is None else tokens[: max_tokens + 1]
    specials, context = tokenizer.specials, model.config.context_length
    lengths = torch.tensor([len(tokenizer.token_bytes(token)) for token in range(tokenizer.size)])
    if not holds_conversations(part, specials):
        Contents(document_targets=max(0, len(part) - 1)).check(what, context)
        return loader_metrics(model, eval_windows(part, context, batch_size), lengths, runtime)
    packed = PackedBatcher(part, specials, context, batch_size, seed=0)
    packed.contents.check(what, context)
    a, b = (loader_metrics(model, packed.in_order(kind), lengths, runtime) for kind in (False, True))
    return Metrics(a.nats + b.nats, a.correct + b.correct, a.tokens + b.tokens, a.bytes + b.bytes, a, b)


@torch.inference_mode()
def loader_metrics(model: Transformer, batches: Iterable[Batch], byte_lengths: Tensor, runtime: Runtime) -> Metrics:
    """Add up the metrics over batches. `byte_lengths` (V,): bytes each id stands for.

    Positions are scored at most `positions_at_once` at a time, so that a large vocabulary takes no more memory.
    """
    assert model.config.vocab_size is not None
    was_training = model.training
    model.eval()
    at_once, byte_lengths = positions_at_once(model.config.vocab_size), byte_lengths.to(runtime.device)
    nats: list[Tensor] = []
    counts: list[Tensor] = []
    tokens = 0
    threads = Threads.of(runtime)
    for batch in batches:
        batch = batch.to(runtime.device)
        tokens += batch.target_count
        with threads.step():
            with runtime.precision():
                states, targets = where_targets(model.states(batch.inputs, segments=batch.segments), batch)
            for part, wanted in zip(torch.split(states, at_once), torch.split(targets, at_once), strict=True):
                with runtime.precision():
                    logits = model.head(part).float()  # (n, V)
                nats.append(cross_entropy(logits, wanted, reduction="sum"))
                size = byte_lengths[wanted.clamp(min=0)] * (wanted != IGNORE)
                counts.append(torch.stack(((logits.argmax(-1) == wanted).sum(), size.sum())))
    model.train(was_training)
    if not nats:
        return Metrics(0.0, 0, 0, 0)
    correct, read = torch.stack(counts).sum(0).tolist()
    return Metrics(sum(torch.stack(nats).tolist()), correct, tokens, read)
