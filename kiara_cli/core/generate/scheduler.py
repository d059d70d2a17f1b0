"""Who sits where in the cache: requests of unequal length join and leave at any step.

In: requests. Out: rows of one block of memory without gaps, so that a tick is one product for all; and keys and
values that were computed before, for a request that begins with the same ids.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from kiara_cli.config.schema import ModelConfig
from kiara_cli.core.generate.request import ActiveRequest
from kiara_cli.core.model.cache import Cache


class Rows:
    """The requests being written, in the order of their rows. The memory doubles when it must, up to `most` rows."""

    def __init__(self, config: ModelConfig, most: int, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.most, self.device, self.dtype = config, most, device, dtype
        self.requests: list[ActiveRequest] = []
        self.cache = Cache(config, 1, device, dtype)

    @property
    def full(self) -> bool:
        return len(self.requests) >= self.most

    def join(self, request: ActiveRequest) -> None:
        """Give a request the next row."""
        assert not self.full
        if len(self.requests) == self.cache.keys.shape[1]:
            self._grow()
        self.requests.append(request)

    def leave(self, request: ActiveRequest) -> None:
        """Free a request's row; the last one moves into its place."""
        row, last = self.requests.index(request), len(self.requests) - 1
        moved = self.requests[last]
        if row != last:
            self.put(row, [part[:, :, : moved.filled] for part in self._of(last)])
            self.requests[row] = moved
        self.requests.pop()

    def view(self, request: ActiveRequest) -> Cache:
        """Return a request's row as a cache of its own."""
        return self.cache.row(self.requests.index(request), request.filled)

    def layers(self, rows: int) -> list[list[Tensor]]:
        """Return for each layer the memory of the first rows, as a tick wants it."""
        return [[part[layer, :rows] for part in self.cache.parts] for layer in range(self.config.n_layers)]

    def copy(self, request: ActiveRequest) -> list[Tensor]:
        """Return a copy of what a request's row holds: (L, K, length, C or 1) each."""
        return [part[:, :, : request.filled].clone() for part in self._of(self.requests.index(request))]

    def put(self, row: int, parts: Sequence[Tensor]) -> None:
        """Fill the first positions of a row."""
        for memory, part in zip(self._of(row), parts, strict=True):
            memory[:, :, : part.shape[2]] = part

    def reuse(self, request: ActiveRequest, prefixes: Prefixes) -> None:
        """Fill the row of a request, which has read nothing yet, with the longest beginning already known.

        One id is always left to be read: what comes after it is asked for.
        """
        window, best, source = request.window[:-1], 0, None
        for row, other in enumerate(self.requests):
            length = common(window, other.window[: other.filled]) if other is not request else 0
            if length > best:
                best, source = length, self._of(row)
        length, stored = prefixes.find(window)
        if length > best:
            best, source = length, stored
        if source is not None:
            self.put(self.requests.index(request), [part[:, :, :best] for part in source])
            request.filled = best

    def _of(self, row: int) -> list[Tensor]:
        return [part[:, row] for part in self.cache.parts]

    def _grow(self) -> None:
        old = self.cache
        rows = old.keys.shape[1]
        self.cache = Cache(self.config, min(2 * rows, self.most), self.device, self.dtype)
        for part, before in zip(self.cache.parts, old.parts, strict=True):
            part[:, :rows] = before


class Prefixes:
    """Keys and values of ended texts, for those that begin alike; the oldest go when `limit` bytes are full."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self.stored: OrderedDict[tuple[int, ...], list[Tensor]] = OrderedDict()

    def find(self, ids: Sequence[int]) -> tuple[int, list[Tensor] | None]:
        """Return how many of the ids are known, and their keys and values."""
        best = max(self.stored, key=lambda known: common(ids, known), default=None)
        if best is None or not (length := common(ids, best)):
            return 0, None
        self.stored.move_to_end(best)
        return length, self.stored[best]

    def keep(self, ids: Sequence[int], rows: Rows, request: ActiveRequest) -> None:
        """Remember what a request's row holds, in place of any text that it only continues."""
        each = sum(part[:, 0, :, 0].numel() * part.element_size() for part in rows.cache.parts)
        if not 0 < each * len(ids) <= self.limit:
            return
        for known in [known for known in self.stored if common(known, ids) == len(known)]:
            self._forget(known)
        self.stored[tuple(ids)] = rows.copy(request)
        self.bytes += size(self.stored[tuple(ids)])
        while self.bytes > self.limit:
            self._forget(next(iter(self.stored)))

    def _forget(self, ids: tuple[int, ...]) -> None:
        self.bytes -= size(self.stored.pop(ids))


def size(parts: Sequence[Tensor]) -> int:
    """Return bytes of memory."""
    return sum(part.numel() * part.element_size() for part in parts)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many ids two texts share at their beginnings."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
