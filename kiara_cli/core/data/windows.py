"""Token shards to batches: next-token pairs cut by a sliding window.

In: a flat array of ids, the window length, the stride and a seed. Out: for any step, the batch of that step; for
evaluation, windows that together predict every token once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from kiara_cli.core.data.batches import Batch, epoch_key, permute, positions
from kiara_cli.core.data.shards import Tokens
from kiara_cli.errors import KiaraError

BLOCK = 1 << 20  # tokens that lie together and are read together with data.sampling=blocks; a guess


@dataclass(frozen=True)
class WindowBatcher:
    """Cut `tokens` into windows of `context_length` inputs and as many targets, shifted by one.

    Each epoch visits every window once, in an order drawn anew. With a stride above 1 each epoch also shifts
    all windows by its own offset, so that later epochs see other cuts of the text. Sampling `blocks` shuffles blocks
    of neighbouring windows, and the windows within each block, so that reads stay near each other.
    Raises KiaraError if the tokens do not fill one window.
    """

    tokens: Tokens
    context_length: int  # T
    batch_size: int  # B
    stride: int
    seed: int
    sampling: Literal["windows", "blocks"] = "windows"

    def __post_init__(self) -> None:
        if len(self.tokens) < self.context_length + 1:
            raise KiaraError(
                f"the training split has {len(self.tokens):,} tokens, one window of "
                f"model.context_length={self.context_length} needs {self.context_length + 1:,}",
                f"use a longer text, or model.context_length={max(2, len(self.tokens) // 2)}",
            )

    @property
    def rows(self) -> int:
        """Windows of an epoch."""
        spare = min(self.stride - 1, len(self.tokens) - self.context_length - 1)  # room for the offset
        return (len(self.tokens) - self.context_length - 1 - spare) // self.stride + 1

    @property
    def places(self) -> int:
        """Rows of a batch."""
        return self.batch_size

    def batch(self, step: int) -> Batch:
        """Return batch number `step`; every token is a target."""
        return self.at(positions(step, self.places))

    def at(self, places: NDArray[np.int64]) -> Batch:
        """Return the windows of these numbers, counted over all epochs."""
        starts = self.starts(places)
        rows = self.tokens[starts[:, None] + np.arange(self.context_length + 1)]  # (B, T + 1), one gather
        block = torch.from_numpy(rows.astype(np.int64))
        return Batch(block[:, :-1].contiguous(), block[:, 1:].contiguous(), None, len(starts) * self.context_length)

    def targets(self, step: int) -> int:
        """Count the targets of a batch."""
        return self.targets_at(positions(step, self.places))

    def targets_at(self, places: NDArray[np.int64]) -> int:
        """Count the targets of the windows of these numbers."""
        return len(places) * self.context_length

    def starts(self, position: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where the windows number `position`, counted over all epochs, begin."""
        starts = np.empty_like(position)
        for epoch in np.unique(position // self.rows):
            here = position // self.rows == epoch
            place = position[here] % self.rows
            key = epoch_key(self.seed, int(epoch))
            room = len(self.tokens) - self.context_length - 1 - (self.rows - 1) * self.stride
            offset = int(key % np.uint64(min(self.stride, room + 1)))
            starts[here] = self._shuffled(place, key) * self.stride + offset
        return starts

    def _shuffled(self, place: NDArray[np.int64], key: np.uint64) -> NDArray[np.int64]:
        """Return which window comes at each place of an epoch."""
        size = max(1, BLOCK // self.stride) if self.sampling == "blocks" else self.rows
        whole = self.rows // size
        window = np.empty_like(place)
        inner = place < whole * size
        block, within = np.divmod(place[inner], size)
        window[inner] = permute(within, size, key)
        if whole > 1:
            window[inner] += permute(block, whole, ~key) * size
        window[~inner] = permute(place[~inner] - whole * size, self.rows - whole * size, key) + whole * size
        return window


def eval_windows(tokens: Tokens, context_length: int, batch_size: int) -> Iterator[Batch]:
    """Yield batches that together predict every token but the first exactly once.

    Windows do not overlap; the last batch holds the one short window that is left, if any.
    """
    whole = (len(tokens) - 1) // context_length
    for first in range(0, whole, batch_size):
        last = min(first + batch_size, whole)
        flat = torch.from_numpy(tokens[first * context_length : last * context_length + 1].astype(np.int64))
        yield Batch(flat[:-1].view(-1, context_length), flat[1:].view(-1, context_length), None, len(flat) - 1)
    rest = torch.from_numpy(tokens[whole * context_length :].astype(np.int64))
    if len(rest) > 1:
        yield Batch(rest[None, :-1], rest[None, 1:], None, len(rest) - 1)
