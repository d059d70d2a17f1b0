"""Logits and targets to one number.

`cross_entropy` is the plain measure. `Objective` adds what a training may want beside it, and scores a long batch
piece by piece where the vocabulary is large. B batch, T time, D width, V vocabulary, n targets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kiara_cli.core.data.batches import IGNORE, Batch
from kiara_cli.core.model.points import hooked
from kiara_cli.core.model.transformer import Transformer

# Rows are scored in multiples of this. oneDNN keeps what it prepares for each number of rows that it meets: with
# another number for every batch, memory grew to 4.7 GB in the default run, and scoring took a fifth longer.
ROWS = 64
LOGITS = 64 << 20  # bytes of logits, in float32, that are held at a time where no gradient needs them all

Unembed: TypeAlias = Callable[[Tensor], Tensor]  # states (n, D) → logits (n, V)


def cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy in nats, computed in float32. logits (…, V), targets (…)."""
    logits = logits.flatten(0, -2).float()
    return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE, reduction=reduction)


def z_penalty(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum over targets of the square of the log of the softmax's sum. logits (n, V), targets (n)."""
    return (logits.logsumexp(-1).square() * (targets != IGNORE)).sum()


def in_pieces(sums: Callable[..., tuple[Tensor, ...]], chunk: int | None, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Add up what `sums` makes of rows of the tensors, `chunk` rows at a time; None: of all at once.

    In chunks, what is made on the way is forgotten and computed again on the way back.
    """
    if chunk is None or len(tensors[0]) <= chunk:
        return sums(*tensors)
    totals: tuple[Tensor, ...] = ()
    for parts in zip(*(torch.split(tensor, chunk) for tensor in tensors), strict=True):
        made = checkpoint(sums, *parts, use_reentrant=False, preserve_rng_state=False)
        totals = tuple(map(torch.add, totals, made)) if totals else made
    return totals


@dataclass(frozen=True)
class Objective:
    """What training minimises: the cross-entropy, and what is added to it."""

    z_loss: float = 0.0  # weight of (log of the softmax's sum)², which keeps logits small (PaLM, 2022)
    smoothing: float = 0.0  # share of the target's probability spread over all tokens (Szegedy et al., 2016)
    chunk: int | None = None  # positions scored at a time

    def __call__(self, states: Tensor, unembed: Unembed, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum to minimise and the sum of the plain cross-entropy. states (n, D), targets (n).

        In chunks only one piece of the logits, n × V, is held.
        """
        objective, nats = in_pieces(functools.partial(self._sums, unembed), self.chunk, states, targets)
        return objective, nats

    def _sums(self, unembed: Unembed, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = unembed(states).float()  # (n, V)
        nats = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
        objective = nats
        if self.smoothing:
            objective = F.cross_entropy(
                logits, targets, ignore_index=IGNORE, reduction="sum", label_smoothing=self.smoothing
            )
        if self.z_loss:
            objective = objective + self.z_loss * z_penalty(logits, targets)
        return objective, nats.detach()


def segment_scores(states: Tensor, unembed: Unembed, batch: Batch, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the log-probability of the targets of each segment, and their number, (B, S) each. states (B, T, D)."""
    assert batch.segments is not None
    assert batch.scores is not None
    B, S = batch.scores.shape
    place = torch.arange(B, device=states.device)[:, None] * S + batch.segments.clamp(max=S - 1)  # (B, T)
    where = (batch.targets.flatten() != IGNORE).nonzero().squeeze(1)
    rest = -len(where) % ROWS
    chosen, targets = F.pad(states.flatten(0, 1)[where], (0, 0, 0, rest)), batch.targets.flatten()[where]
    padded = F.pad(targets, (0, rest), value=IGNORE)

    def nats_of(part: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(unembed(part).float(), wanted, ignore_index=IGNORE, reduction="none")

    size = chunk or len(padded)
    pieces = zip(torch.split(chosen, size), torch.split(padded, size), strict=True)
    if chunk is None:
        nats = torch.cat([nats_of(part, wanted) for part, wanted in pieces])
    else:
        nats = torch.cat([checkpoint(nats_of, part, wanted, use_reentrant=False) for part, wanted in pieces])
    index, zeros = place.flatten()[where], states.new_zeros(B * S, dtype=torch.float32)
    scores = zeros.index_add(0, index, -nats[: len(where)])
    counts = zeros.index_add(0, index, torch.ones_like(index, dtype=torch.float32))
    return scores.view(B, S), counts.view(B, S)


@dataclass(frozen=True)
class Preference:
    """What training on pairs minimises: the preferred reply is to become likelier than the other.

    dpo (Rafailov et al., 2023): beyond what the reference model says. simpo (Meng et al., 2024): by the mean over the
    tokens of each, and by a margin; no reference.
    """

    kind: str
    beta: float
    margin: float = 0.0
    chunk: int | None = None

    def __call__(self, states: Tensor, unembed: Unembed, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the sum over pairs to minimise; and (3) that sum, how many are right, differences of rewards."""
        assert batch.scores is not None
        found, counts = segment_scores(states, unembed, batch, self.chunk)
        there = ~batch.scores[::2].isnan()  # (B / 2, S)
        against = found - batch.scores.nan_to_num() if self.kind == "dpo" else found / counts.clamp(min=1)
        rewards = self.beta * against
        ahead = (rewards[::2] - rewards[1::2])[there]
        loss = -F.logsigmoid(ahead - (self.margin if self.kind == "simpo" else 0.0)).sum()
        return loss, torch.stack((loss, (ahead > 0).sum(), ahead.sum())).detach()


def batch_loss(model: Transformer, batch: Batch, objective: Objective = Objective()) -> tuple[Tensor, Tensor]:
    """Return the objective and the plain cross-entropy, summed over the targets of a batch."""
    return objective(*to_score(model, model.states(batch.inputs, segments=batch.segments), batch))


def to_score(model: Transformer, states: Tensor, batch: Batch) -> tuple[Tensor, Unembed, Tensor]:
    """Return what an objective needs of states (B, T, D): those with a target (n, D), the head, the targets (n).

    A hook on the logits is to see them all at once, (B, T, V): then they take the place of the states, and nothing is
    left for the head.
    """
    if hooked(model.logits):
        logits, targets = where_targets(model.unembed(states), batch)
        return logits, nn.Identity(), targets
    states, targets = where_targets(states, batch)
    return states, model.unembed, targets


def positions_at_once(vocab_size: int) -> int:
    """Return how many positions to score at a time: those whose logits take about LOGITS bytes."""
    return max(ROWS, LOGITS // (4 * vocab_size) // ROWS * ROWS)


def where_targets(states: Tensor, batch: Batch, *more: Tensor) -> tuple[Tensor, ...]:
    """Return the states (n, D) and targets (n) to be scored, of states (B, T, D): of positions with a target.

    And what else is known by position, (B, T, …), at the same positions. Numbers that fill up are 0, targets IGNORE.
    """
    tensors = tuple(tensor.flatten(0, 1) for tensor in (states, batch.targets, *more))
    if batch.target_count < len(tensors[0]):
        where = (tensors[1] != IGNORE).nonzero().squeeze(1)
        rest = -len(where) % ROWS
        tensors = tuple(
            F.pad(x[where], (*(0, 0) * (x.ndim - 1), 0, rest), value=0 if x.is_floating_point() else IGNORE)
            for x in tensors
        )
    return tensors
