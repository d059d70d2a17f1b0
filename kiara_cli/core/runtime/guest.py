"""A guest in somebody else's process: what a call changes of torch's global settings is given back.

In: a block, or an iterator. Out: the same; outside of it threads, determinism and random numbers are the host's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")


@contextmanager
def host_settings_kept(threads: int | None = None) -> Iterator[None]:
    """Give back at the end of this block what it changes; within it, compute on so many threads."""
    before, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.set_num_threads(before)
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]


def as_guest(items: Iterator[Item], threads: int) -> Iterator[Item]:
    """Yield from an iterator that computes on so many threads; whoever takes an item sees the host's own settings."""
    while True:
        with host_settings_kept(threads):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
