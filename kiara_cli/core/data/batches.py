"""Token shards to batches: next-token pairs cut by a sliding window, in an order that is a pure function.

In: a flat array of ids, the window length, the stride, a seed, and which of how many processes this is. Out: for any
step, the batch of that step. There is no state to save: resume asks for the next step, and any step can be asked for
at any time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from kiara_cli.core.data.shards import Tokens
from kiara_cli.errors import KiaraError

IGNORE = -100  # a target that no loss is taken on (torch's own default)
BLOCK = 1 << 20  # tokens that lie together and are read together with data.sampling=blocks; a guess
ROUNDS = 4  # of the Feistel network below; four make a pseudo-random permutation (Luby and Rackoff, 1988)


@dataclass(frozen=True)
class Batcher:
    """Cut `tokens` into windows of `context_length` inputs and as many targets, shifted by one.

    Each epoch visits every window once, in an order drawn anew. With a stride above 1 each epoch also shifts
    all windows by its own offset, so that later epochs see other cuts of the text. Sampling `blocks` shuffles blocks
    of neighbouring windows, and the windows within each block, so that reads stay near each other. Of the `world`
    processes that train together, each takes its own rows of a step: together they take what one would.
    Raises KiaraError if the tokens do not fill one window.
    """

    tokens: Tokens
    context_length: int  # T
    batch_size: int  # B
    stride: int
    seed: int
    sampling: Literal["windows", "blocks"] = "windows"
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if len(self.tokens) < self.context_length + 1:
            raise KiaraError(
                f"the training split has {len(self.tokens):,} tokens, one window of "
                f"model.context_length={self.context_length} needs {self.context_length + 1:,}",
                f"use a longer text, or model.context_length={max(2, len(self.tokens) // 2)}",
            )

    @property
    def windows(self) -> int:
        """Windows in an epoch."""
        spare = min(self.stride - 1, len(self.tokens) - self.context_length - 1)  # room for the offset
        return (len(self.tokens) - self.context_length - 1 - spare) // self.stride + 1

    @property
    def steps_per_epoch(self) -> float:
        return self.windows / (self.batch_size * self.world)

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets of a step, both (B, T) int64."""
        position = positions(step, self.batch_size, self.rank, self.world)
        starts = self.starts(position)
        rows = self.tokens[starts[:, None] + np.arange(self.context_length + 1)]  # (B, T + 1), one gather
        block = torch.from_numpy(rows.astype(np.int64))
        return block[:, :-1].contiguous(), block[:, 1:].contiguous()

    def starts(self, position: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where the windows number `position`, counted over all epochs, begin."""
        starts = np.empty_like(position)
        for epoch in np.unique(position // self.windows):
            here = position // self.windows == epoch
            rank = position[here] % self.windows
            key = epoch_key(self.seed, int(epoch))
            room = len(self.tokens) - self.context_length - 1 - (self.windows - 1) * self.stride
            offset = int(key % np.uint64(min(self.stride, room + 1)))
            starts[here] = self._shuffled(rank, key) * self.stride + offset
        return starts

    def _shuffled(self, rank: NDArray[np.int64], key: np.uint64) -> NDArray[np.int64]:
        """Say which window comes at each rank of an epoch."""
        size = max(1, BLOCK // self.stride) if self.sampling == "blocks" else self.windows
        whole = self.windows // size
        window = np.empty_like(rank)
        inner = rank < whole * size
        block, within = np.divmod(rank[inner], size)
        window[inner] = permute(within, size, key)
        if whole > 1:
            window[inner] += permute(block, whole, ~key) * size
        window[~inner] = permute(rank[~inner] - whole * size, self.windows - whole * size, key) + whole * size
        return window


def positions(step: int, batch_size: int, rank: int, world: int) -> NDArray[np.int64]:
    """Return which windows, counted over all epochs, one of `world` processes takes at a step."""
    first = (step * world + rank) * batch_size
    return np.arange(first, first + batch_size)


def epoch_key(seed: int, epoch: int) -> np.uint64:
    """Return the key of an epoch's order: unrelated for neighbouring seeds and epochs."""
    return np.uint64(_mix(np.uint64(seed) ^ _mix(np.uint64(epoch + 1))))


def permute(rank: NDArray[np.int64], size: int, key: np.uint64) -> NDArray[np.int64]:
    """Shuffle 0 … size-1 without holding it in memory: return where each rank lands.

    A Feistel network over the next even power of two; a result beyond `size` is sent round again, which keeps
    the map one-to-one.
    """
    half = max(1, (max(2, size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    value = rank.astype(np.uint64)
    todo = np.ones(len(value), dtype=bool)
    while todo.any():
        left, right = value[todo] >> np.uint64(half), value[todo] & mask
        for index in range(ROUNDS):
            left, right = right, left ^ (_mix(right ^ key ^ np.uint64(index << 56)) & mask)
        value[todo] = left << np.uint64(half) | right
        todo = value >= size
    return value.astype(np.int64)


def eval_windows(tokens: Tokens, context_length: int, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield inputs and targets (B, T) that together predict every token but the first exactly once.

    Windows do not overlap; the last batch holds the one short window that is left, if any.
    """
    whole = (len(tokens) - 1) // context_length
    for first in range(0, whole, batch_size):
        last = min(first + batch_size, whole)
        flat = torch.from_numpy(tokens[first * context_length : last * context_length + 1].astype(np.int64))
        yield flat[:-1].view(-1, context_length), flat[1:].view(-1, context_length)
    rest = torch.from_numpy(tokens[whole * context_length :].astype(np.int64))
    if len(rest) > 1:
        yield rest[None, :-1], rest[None, 1:]


def _mix(value: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64] | np.uint64:
    """Scatter the bits of 64-bit integers (the finalizer of splitmix64, Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))
