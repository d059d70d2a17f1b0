"""Which request has which slot of the KV cache: requests of unequal length join and leave at any step.

In: requests. Out: slots without gaps, so that a decode step is one product for all; and keys and values that were
computed before, for a request that begins with the same ids.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.generate.request import ActiveRequest
from kiara_cli.core.model.cache import Cache, position_bytes

FIRST = 256  # positions that are allocated at first; from there on they double

States = Sequence[Sequence[Tensor]]  # keys and values of some positions: of each layer, (K, length, C or 1) each


class Slots:
    """The requests that have a slot, in the order of their slots, at most `most`.

    The cache is as large as they need, in all at most `limit` bytes: `context` is what of the model's context length
    fits for one sequence alone.
    """

    def __init__(
        self, config: ModelConfig, most: int, device: torch.device, dtype: torch.dtype, limit: int | None = None
    ) -> None:
        self.most = most
        self.requests: list[ActiveRequest] = []
        self.context, self.budget = config.context_length, most * config.context_length
        if limit is not None:
            self.budget = limit // position_bytes(config, dtype)  # positions of all slots together
            self.context = min(self.context, self.budget)
        self.cache = Cache(config, 1, device, dtype, max(1, min(FIRST, self.context)))

    def admit(self, request: ActiveRequest, positions: int) -> bool:
        """Give a request the next slot, with so many positions; False where there is none for now."""
        if len(self.requests) >= self.most or not self.reserve(len(self.requests) + 1, positions):
            return False
        self.requests.append(request)
        return True

    def reserve(self, slots: int, positions: int) -> bool:
        """Make the cache at least so large; False where that would be over the limit.

        It doubles where the limit allows that, so that it is copied seldom.
        """
        cache = self.cache
        if slots <= cache.slots and positions <= cache.capacity:
            return True
        positions = min(-(-positions // FIRST) * FIRST, self.context)
        more_slots = cache.slots if slots <= cache.slots else min(2 * cache.slots, self.most)
        more = (
            cache.capacity if positions <= cache.capacity else min(max(2 * cache.capacity, positions), self.context)
        )
        for shape in ((more_slots, more), (slots, more), (more_slots, positions), (slots, positions)):
            if shape[0] * shape[1] <= self.budget:
                cache.resize(*shape)
                return True
        return False

    def free(self, request: ActiveRequest, clean: bool = False) -> None:
        """Free a request's slot; the last one moves into its place. `clean`: its memory is zeroed first."""
        slot, last = self.requests.index(request), len(self.requests) - 1
        moved = self.requests[last]
        if clean:
            for part in (part for parts in self.cache.layers for part in parts):
                part[slot].zero_()
        if slot != last:
            self.fill(slot, self._states(last, moved.filled))
            self.requests[slot] = moved
        self.requests.pop()

    def view(self, request: ActiveRequest) -> Cache:
        """Return a request's slot as a cache of its own."""
        return self.cache.slot(self.requests.index(request), request.filled)

    def layers(self, slots: int) -> list[list[Tensor]]:
        """Return for each layer the first slots, as a decode step wants them."""
        return [[part[:slots] for part in parts] for parts in self.cache.layers]

    def copy(self, request: ActiveRequest) -> States:
        """Return a copy of what a request's slot holds."""
        states = self._states(self.requests.index(request), request.filled)
        return [[part.clone() for part in parts] for parts in states]

    def fill(self, slot: int, states: States) -> None:
        """Fill the first positions of a slot."""
        for parts, known in zip(self.cache.layers, states, strict=True):
            for part, source in zip(parts, known, strict=True):
                part[slot, :, : source.shape[1]] = source

    def reuse(self, request: ActiveRequest, prefixes: Prefixes) -> None:
        """Fill the slot of a request, which has read nothing yet, with the longest beginning already known.

        One id is always left to be read: what comes after it is asked for.
        """
        window, best, source = request.window[:-1], 0, None
        for slot, other in enumerate(self.requests):
            length = common(window, other.window[: other.filled]) if other is not request else 0
            if length > best:
                best, source = length, self._states(slot, length)
        length, stored = prefixes.find(window)
        if length > best and stored is not None:
            best, source = length, [[part[:, :length] for part in parts] for parts in stored]
        if source is not None:
            self.fill(self.requests.index(request), source)
            request.filled = best

    def _states(self, slot: int, length: int) -> States:
        return [[part[slot, :, :length] for part in parts] for parts in self.cache.layers]


class Prefixes:
    """Keys and values of ended sequences, for those that begin alike; the oldest go when `limit` bytes are full."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self.stored: OrderedDict[tuple[int, ...], States] = OrderedDict()

    def find(self, ids: Sequence[int]) -> tuple[int, States | None]:
        """Return how many of the ids are known, and their keys and values."""
        best = max(self.stored, key=lambda known: common(ids, known), default=None)
        if best is None or not (length := common(ids, best)):
            return 0, None
        self.stored.move_to_end(best)
        return length, self.stored[best]

    def keep(self, ids: Sequence[int], slots: Slots, request: ActiveRequest) -> None:
        """Remember what a request's slot holds, in place of any sequence that it only continues."""
        each = slots.cache.bytes // (slots.cache.slots * slots.cache.capacity)
        if not 0 < each * len(ids) <= self.limit:
            return
        for known in [known for known in self.stored if common(known, ids) == len(known)]:
            self._forget(known)
        self.stored[tuple(ids)] = slots.copy(request)
        self.bytes += size(self.stored[tuple(ids)])
        while self.bytes > self.limit:
            self._forget(next(iter(self.stored)))

    def _forget(self, ids: tuple[int, ...]) -> None:
        self.bytes -= size(self.stored.pop(ids))


def size(states: States) -> int:
    """Return bytes of memory."""
    return sum(part.numel() * part.element_size() for parts in states for part in parts)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many ids two sequences share at their beginnings."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
