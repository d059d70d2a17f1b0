"""A model and held-out tokens to loss, perplexity, bits per byte and accuracy.

Every token of a document but the first is predicted exactly once; of conversations what the assistant says. Windows
do not overlap unless a stride says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from kiara_cli.core.data.batches import IGNORE, Batch
from kiara_cli.core.data.packing import PackedBatcher
from kiara_cli.core.data.segments import Contents, holds_conversations
from kiara_cli.core.data.shards import Tokens
from kiara_cli.core.eval.lengths import Lengths, byte_lengths
from kiara_cli.core.eval.windows import WHOLE, check_stride, in_order, windows
from kiara_cli.core.loss import cross_entropy, positions_at_once, to_score, where_targets
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.adaptive import Threads
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.runtime.parallel import ALONE, World
from kiara_cli.core.runtime.ranks import add_up, gather, in_step
from kiara_cli.core.tokenizer.protocol import Tokenizer

BLOCKS = 100  # that a text is cut into, at most, to see how far the loss varies along it


@dataclass(frozen=True)
class Scored:
    """Predictions of some targets, (n,) each but the logits."""

    logits: Tensor  # (n, V) float32
    targets: Tensor
    nats: Tensor
    seen: Tensor  # ids that the model had read before each


Watch: TypeAlias = Callable[[Scored], None]


@dataclass(frozen=True)
class Metrics:
    """Sums over all predicted tokens, and what follows from them."""

    nats: float
    correct: int
    tokens: int
    bytes: int  # of the text that those tokens stand for
    documents: Metrics | None = None  # the same of documents alone, where there are conversations too
    conversations: Metrics | None = None
    deviation: float | None = None  # standard error of `nats`; None where there are less than two blocks of text
    unknown: int = 0  # tokens for text that has no id of its own
    unknown_bytes: int = 0  # of that text
    window: int = 0  # ids that the model reads at once
    stride: int = 0  # ids between two windows
    cut: int = 0  # conversations that are longer than the window, whose end was not measured

    @property
    def loss(self) -> float:
        """Cross-entropy in nats per token."""
        return self.nats / max(1, self.tokens)

    @property
    def standard_error(self) -> float | None:
        """How far the loss would be off if it were measured on other text of the same kind, in nats per token."""
        return None if self.deviation is None else self.deviation / max(1, self.tokens)

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of text, comparable across tokenizers: the cross-entropy, and 8 bits for each byte of text
        that the tokenizer has no id for."""
        return (self.nats / math.log(2) + 8 * self.unknown_bytes) / max(1, self.bytes)

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
    stride: int | None = None,
    lengths: Lengths | None = None,
    watch: Watch | None = None,
    world: World = ALONE,
) -> Metrics:
    """Measure a model over the whole of `tokens`, or over the first `max_tokens`.

    Each process of a `world` takes every so many-th batch, all get the same figures, and a `watch` sees its share.

    Of conversations what the assistant says is measured, documents in full. Windows begin `stride` ids after each
    other, by default as many as the model reads at once. `lengths` are the bytes of the ids, `watch` is shown all
    predictions. Raises KiaraError, naming `what` is measured, if there is no target in it.
    """
    part = tokens if max_tokens is None else tokens[: max_tokens + 1]
    specials, context = tokenizer.specials, model.config.context_length
    stride, lengths = check_stride(stride, context), lengths or byte_lengths(tokenizer)
    if not holds_conversations(part, specials):
        Contents(document_targets=max(0, len(part) - 1)).check(what, context)
        batches = windows(part, context, batch_size, stride)
        found = loader_metrics(model, batches, lengths, runtime, watch, BLOCKS, world)
        return replace(found, window=context, stride=stride)
    longest = None if stride == context else WHOLE
    packed = PackedBatcher(part, specials, context, batch_size, seed=0, longest=longest)
    packed.contents.check(what, context)
    a, b = (
        loader_metrics(model, in_order(packed, kind, stride), lengths, runtime, watch, world=world)
        for kind in (False, True)
    )
    cut = packed.contents.too_long if longest is None else 0
    return replace(_sum(a, b), documents=a, conversations=b, window=context, stride=stride, cut=cut)


def _sum(a: Metrics, b: Metrics) -> Metrics:
    """Add up the metrics of two texts; their errors are independent."""
    errors = [part.deviation for part in (a, b) if part.tokens]
    deviation = None if None in errors else math.hypot(*(error for error in errors if error is not None))
    return Metrics(
        a.nats + b.nats, a.correct + b.correct, a.tokens + b.tokens, a.bytes + b.bytes, deviation=deviation,
        unknown=a.unknown + b.unknown, unknown_bytes=a.unknown_bytes + b.unknown_bytes,
    )  # fmt: skip


@torch.inference_mode()
def loader_metrics(
    model: Transformer,
    batches: Iterable[Batch],
    lengths: Lengths,
    runtime: Runtime,
    watch: Watch | None = None,
    blocks: int | None = None,
    world: World = ALONE,
) -> Metrics:
    """Add up the metrics over batches, of which each process of a `world` measures its share.

    Positions are scored at most `positions_at_once` at a time, so that a large vocabulary takes no more memory. How
    far the loss varies is told from rows, or from at most `blocks` stretches of neighbouring rows.
    """
    assert model.config.vocab_size is not None
    was_training = model.training
    model.eval()
    at_once, lengths = positions_at_once(model.config.vocab_size), lengths.to(runtime.device)
    counts: list[Tensor] = []
    rows: list[Tensor] = []
    threads = Threads.of(runtime)
    for batch, counted in in_step(batches, world):
        batch = batch.to(runtime.device)
        with threads.step():
            with runtime.precision():
                states = model.states(batch.inputs, segments=batch.segments)
                if not counted:
                    continue
                states, unembed, targets = to_score(model, states, batch)
            seen = _ids_before(batch) if watch is not None else targets
            nats = []
            for part, wanted, before in zip(*(torch.split(x, at_once) for x in (states, targets, seen)), strict=True):
                with runtime.precision():
                    logits = unembed(part).float()  # (n, V)
                nats.append(cross_entropy(logits, wanted, reduction="none"))
                counts.append(_count(logits, wanted, lengths))
                if watch is not None:
                    _show(watch, Scored(logits, wanted, nats[-1], before))
            rows.append(_by_row(torch.cat(nats), batch))
    model.train(was_training)
    own = torch.stack(counts).sum(0).cpu() if counts else torch.zeros(3, dtype=torch.int64)
    correct, read, unknown = add_up(own.numpy(), world).tolist()
    sums = _in_turn(rows, world)  # (2, rows)
    if not sums.shape[1]:
        return Metrics(0.0, 0, 0, 0)
    unknown_bytes = round(unknown * lengths.average)
    return Metrics(
        float(sums[0].sum()), correct, int(sums[1].sum()), round(read * lengths.scale) + unknown_bytes,
        deviation=_deviation(sums, blocks), unknown=unknown, unknown_bytes=unknown_bytes,
    )  # fmt: skip


def _in_turn(rows: list[Tensor], world: World) -> Tensor:
    """Return what all processes found out of the rows of their batches, (2, rows), in the order of one process."""
    sizes = gather(np.array([part.shape[1] for part in rows], dtype=np.int64), world)
    own = torch.cat(rows, dim=1).cpu().double() if rows else torch.zeros(2, 0, dtype=torch.float64)
    sums = [torch.from_numpy(part.reshape(2, -1).copy()) for part in gather(own.numpy().ravel(), world)]
    parts = [torch.split(part, size.tolist(), dim=1) for part, size in zip(sums, sizes, strict=True)]
    batches = sum(map(len, sizes))
    return torch.cat([own[:, :0], *(parts[n % world.size][n // world.size] for n in range(batches))], dim=1)


def _count(logits: Tensor, wanted: Tensor, lengths: Lengths) -> Tensor:
    """Return how many targets were the likeliest, how many bytes they stand for and how many are unknown text."""
    counted, ids = wanted != IGNORE, wanted.clamp(min=0)
    correct = (logits.argmax(-1) == wanted).sum()
    return torch.stack((correct, (lengths.known[ids] * counted).sum(), (lengths.unknown[ids] & counted).sum()))


def _by_row(nats: Tensor, batch: Batch) -> Tensor:
    """Return the nats and the number of targets of each row, (2, B)."""
    counted = batch.targets != IGNORE
    sums = torch.zeros_like(counted, dtype=nats.dtype).masked_scatter(counted, nats)  # (B, T)
    return torch.stack((sums.sum(1), counted.sum(1).float()))


def _ids_before(batch: Batch) -> Tensor:
    """Return how many ids of its own segment stand before each target, (n,), as `where_targets` orders them."""
    places = torch.arange(batch.inputs.shape[1], device=batch.inputs.device).expand(batch.inputs.shape)
    if batch.segments is not None:
        begins = torch.ones_like(batch.segments, dtype=torch.bool)
        begins[:, 1:] = batch.segments[:, 1:] != batch.segments[:, :-1]
        places = places - torch.where(begins, places, 0).cummax(1).values
    return where_targets(places[..., None] + 1, batch)[0].squeeze(1)


def _show(watch: Watch, scored: Scored) -> None:
    """Show predictions without what `where_targets` has added to them."""
    kept = int((scored.targets != IGNORE).sum())
    watch(Scored(scored.logits[:kept], scored.targets[:kept], scored.nats[:kept], scored.seen[:kept]))


def _deviation(sums: Tensor, blocks: int | None) -> float | None:
    """Return the standard error of the nats, of (2, rows) nats and targets: that of a ratio of sums over blocks."""
    if blocks is not None and sums.shape[1] > blocks:
        which = torch.arange(sums.shape[1]) * blocks // sums.shape[1]
        sums = torch.zeros(2, blocks, dtype=sums.dtype).index_add_(1, which, sums)
    number = sums.shape[1]
    if number < 2:
        return None
    rest = sums[0] - sums[0].sum() / sums[1].sum() * sums[1]
    return math.sqrt(number / (number - 1) * float(rest.square().sum()))
