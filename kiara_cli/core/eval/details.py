"""Where a loss comes from: how sure the model is, how much it had read, how rare the token is.

In: predictions, as `evaluate` shows them to a watch. Out: top-5 accuracy, calibration, and the loss by groups of
targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kiara_cli.core.eval.metrics import Scored
from kiara_cli.core.runtime.parallel import World
from kiara_cli.core.runtime.ranks import add_up

BINS = 10  # of confidence, equally wide
TENTHS = 10  # of the measured tokens, from rare to common
TOP = 5


class TopFive:
    """Counts how often the right token was among the five likeliest."""

    def __init__(self) -> None:
        self.tokens = 0
        self._hits: list[Tensor] = []

    def __call__(self, scored: Scored) -> None:
        best = scored.logits.topk(min(TOP, scored.logits.shape[-1])).indices  # (n, 5)
        self._hits.append((best == scored.targets[:, None]).any(1).sum())
        self.tokens += len(scored.targets)

    def put_together(self, world: World) -> None:
        """Add what the other processes saw, once, after all have measured."""
        tokens, hits = add_up(np.array([self.tokens, sum(int(one) for one in self._hits)]), world).tolist()
        self.tokens, self._hits = tokens, [torch.tensor(hits)]

    @property
    def accuracy(self) -> float:
        return int(torch.stack(self._hits).sum()) / max(1, self.tokens) if self._hits else 0.0


@dataclass(frozen=True)
class Group:
    """Targets that have something between `low` and `high` in common, and the loss on them in nats per token."""

    low: float
    high: float
    tokens: int
    loss: float


@dataclass(frozen=True)
class Bin:
    """Predictions of about the same confidence, and how often they were right."""

    low: float
    high: float
    tokens: int
    confidence: float  # mean
    accuracy: float


class Details(TopFive):
    """Adds up all that `TopFive` does, and sums by confidence, by ids read before and by token.

    T ids at most are read before a token, V is the vocabulary's size.
    """

    def __init__(self, context: int, vocab_size: int) -> None:
        super().__init__()
        self._bins = np.zeros((3, BINS))  # predictions, the sum of their confidence, how many were right
        self._seen = np.zeros((2, context + 1))  # targets and nats
        self._ids = np.zeros((2, vocab_size))

    def __call__(self, scored: Scored) -> None:
        super().__call__(scored)
        best, guess = scored.logits.max(-1)
        own = scored.logits.gather(1, scored.targets[:, None]).squeeze(1)
        confidence = (best - own - scored.nats).exp()  # of the softmax: its log of the sum is own + nats
        sure, nats = (x.cpu().double().numpy() for x in (confidence, scored.nats))
        right, seen, ids = (x.cpu().numpy() for x in (guess == scored.targets, scored.seen, scored.targets))
        place = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
        for row, weights in enumerate((None, sure, right)):
            self._bins[row] += np.bincount(place, weights, BINS)
        for sums, where in ((self._seen, seen), (self._ids, ids)):
            sums[0] += np.bincount(where, minlength=sums.shape[1])
            sums[1] += np.bincount(where, nats, sums.shape[1])

    def put_together(self, world: World) -> None:
        super().put_together(world)
        self._bins, self._seen, self._ids = (add_up(x, world) for x in (self._bins, self._seen, self._ids))

    def calibration(self) -> list[Bin]:
        """Return the bins that hold predictions, from unsure to sure (reliability diagram)."""
        return [
            Bin(index / BINS, (index + 1) / BINS, int(number), sure / number, right / number)
            for index, (number, sure, right) in enumerate(self._bins.T.tolist())
            if number
        ]

    @property
    def calibration_error(self) -> float:
        """How far confidence and accuracy are apart on average (expected calibration error, Naeini et al., 2015)."""
        return sum(abs(one.confidence - one.accuracy) * one.tokens for one in self.calibration()) / max(
            1, self.tokens
        )

    def by_position(self) -> list[Group]:
        """Return the loss by how many ids the model had read: 1, 2, 3 to 4, 5 to 8, and so on."""
        seen = np.arange(self._seen.shape[1])
        return _groups(seen, np.ceil(np.log2(np.maximum(seen, 1))).astype(np.int64), self._seen)

    def by_frequency(self, counts: NDArray[np.int64]) -> list[Group]:
        """Return the loss by how often a token occurs in training, `counts` (V,): never, then tenths of what was
        measured, from rare to common. Tokens of one count stay together."""
        counts = np.pad(counts, (0, self._ids.shape[1] - len(counts)))
        often, which = np.unique(counts, return_inverse=True)
        mass = np.bincount(which, self._ids[0])
        known = np.where(often > 0, mass, 0.0)
        middle = np.cumsum(known) - known / 2
        tenth = np.where(often > 0, np.minimum(TENTHS * middle / max(1.0, known.sum()), TENTHS - 1).astype(int), -1)
        return _groups(counts, tenth[which], self._ids)


def _groups(values: NDArray[np.int64], group: NDArray[np.int64], sums: NDArray[Any]) -> list[Group]:
    """Return the groups that hold targets; `sums` (2, n) are targets and nats of each value."""
    found = []
    for number in np.unique(group):
        here = (group == number) & (sums[0] > 0)
        if here.any():
            tokens, nats = sums[:, here].sum(1).tolist()
            found.append(Group(int(values[here].min()), int(values[here].max()), int(tokens), nats / tokens))
    return found
