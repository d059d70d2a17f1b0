"""A model and held-out tokens to loss, perplexity, bits per byte and accuracy.

Every token but the first is predicted exactly once, in windows that do not overlap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from kiara_cli.core.data.batches import IGNORE, Batch
from kiara_cli.core.data.packing import PackedBatcher, holds_conversations
from kiara_cli.core.data.shards import Tokens
from kiara_cli.core.data.windows import eval_windows
from kiara_cli.core.loss import cross_entropy
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError


@dataclass(frozen=True)
class Metrics:
    """Sums over all predicted tokens, and what follows from them."""

    nats: float
    correct: int
    tokens: int
    bytes: int  # of the text that those tokens stand for

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


@torch.inference_mode()
def loader_metrics(model: Transformer, batches: Iterable[Batch], byte_lengths: Tensor, runtime: Runtime) -> Metrics:
    """Add up the metrics over batches. `byte_lengths` (V,): bytes each id stands for."""
    was_training = model.training
    model.eval()
    nats, correct, tokens, size = 0.0, 0, 0, 0
    for batch in batches:
        batch = batch.to(runtime.device)
        with runtime.precision():
            logits = model(batch.inputs, segments=batch.segments)
        targets, counted = batch.targets, batch.targets != IGNORE
        nats += cross_entropy(logits, targets, reduction="sum").item()
        correct += int((logits.argmax(-1) == targets)[counted].sum())
        tokens += int(counted.sum())
        size += int(byte_lengths[targets[counted].cpu()].sum())
    model.train(was_training)
    return Metrics(nats, correct, tokens, size)


def evaluate(
    model: Transformer,
    tokens: Tokens,
    tokenizer: Tokenizer,
    runtime: Runtime,
    batch_size: int,
    max_tokens: int | None = None,
) -> Metrics:
    """Measure a model over the whole of `tokens`, or over the first `max_tokens`. Raises KiaraError if none.

    Of conversations only what the assistant says is measured.
    """
    part = tokens if max_tokens is None else tokens[: max_tokens + 1]
    if len(part) < 2:
        raise KiaraError(f"this split has {len(part)} tokens, too few to predict one", "use a longer text")
    lengths = torch.tensor([len(tokenizer.token_bytes(token)) for token in range(tokenizer.size)])
    context = model.config.context_length
    if holds_conversations(part, tokenizer.specials):
        packed = PackedBatcher(part, tokenizer.specials, context, batch_size, seed=0)
        return loader_metrics(model, packed.in_order(), lengths, runtime)
    return loader_metrics(model, eval_windows(part, context, batch_size), lengths, runtime)
