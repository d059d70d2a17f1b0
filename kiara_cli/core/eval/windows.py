"""Held-out ids to batches that score every target once, with windows that may overlap.

In: ids, the window and the stride. Out: batches in which what an earlier window has scored is no target. With a
stride below the window, every id but the first ones of its text is read with more than window − stride ids before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kiara_cli.core.data.batches import IGNORE, Batch
from kiara_cli.core.data.packing import PackedBatcher
from kiara_cli.core.data.shards import Tokens
from kiara_cli.core.data.windows import eval_windows
from kiara_cli.core.tokenizer.chat_format import target_mask
from kiara_cli.errors import KiaraError

WHOLE = 2**31 - 1  # ids of a segment: none is cut

Span = tuple[int, int, int]  # a window's first input, its first target that counts, and the end of its targets


def check_stride(stride: int | None, context: int) -> int:
    """Return the stride to use. Raises KiaraError if windows would leave ids out."""
    if stride is not None and stride > context:
        raise KiaraError(
            f"eval.stride={stride} is more than the context of {context} tokens: it would leave text out",
            f"give a stride from 1 to {context}",
            key="eval.stride",
        )
    return stride or context


def spans(targets: int, context: int, stride: int) -> Iterator[Span]:
    """Yield windows over ids that have so many targets: each target counts in one of them."""
    end = min(context, targets)
    yield 0, 0, end
    while end < targets:
        fresh = min(stride, targets - end)
        yield (end if stride == context else end + fresh - context), end, end + fresh
        end += fresh


def windows(tokens: Tokens, context: int, batch_size: int, stride: int) -> Iterator[Batch]:
    """Yield batches that together predict every id but the first once, as one text."""
    if stride == context or len(tokens) <= context + 1:
        yield from eval_windows(tokens, context, batch_size)
        return
    for some in _batched(spans(len(tokens) - 1, context, stride), batch_size):
        yield _batch([_row(tokens[first : end + 1], counted - first, None) for first, counted, end in some])


def in_order(packed: PackedBatcher, conversations: bool, stride: int) -> Iterator[Batch]:
    """Yield every conversation, or every document, once, each by itself; what is longer than a row in windows.

    Where the windows do not overlap, conversations end where the row does, as in training.
    """
    yield from packed.in_order(conversations)
    found, context = packed.segments, packed.context_length
    long = (found.lengths > context + 1) & (found.targets > 0) & (found.conversation == conversations)
    rows = (
        row
        for start, length in zip(found.starts[long].tolist(), found.lengths[long].tolist(), strict=True)
        for row in _long(packed, start, length, conversations, stride)
    )
    for some in _batched(rows, packed.batch_size):
        yield _batch(some)


def _long(packed: PackedBatcher, start: int, length: int, conversation: bool, stride: int) -> Iterator[Any]:
    """Yield the windows of one text that is longer than a row."""
    ids = packed.tokens[start : start + length]
    learned = target_mask(ids, packed.specials)[1:] if conversation else None
    for first, counted, end in spans(length - 1, packed.context_length, stride):
        wanted = None if learned is None else learned[first:end]
        if wanted is None or wanted[counted - first :].any():
            yield _row(ids[first : end + 1], counted - first, wanted)


def _row(ids: NDArray[Any], skipped: int, wanted: NDArray[np.bool_] | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return inputs and targets (T,) of a window, of which the first `skipped` targets do not count."""
    ids = ids.astype(np.int64)
    targets = ids[1:].copy()
    targets[:skipped] = IGNORE
    if wanted is not None:
        targets[~wanted] = IGNORE
    return ids[:-1], targets


def _batch(rows: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> Batch:
    inputs, targets = (np.stack(column) for column in zip(*rows, strict=True))
    return Batch.of(torch.from_numpy(inputs), torch.from_numpy(targets))


def _batched(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while some := list(islice(items, size)):
        yield some
