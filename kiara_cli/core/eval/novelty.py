"""How much a text repeats itself, and how much of it stands in the training data.

In: ids of texts; the ids of a training split, read once in pieces, in constant memory. Out: shares and spans.

Stretches of ids are compared by a hash of 64 bits that is made for all stretches of a piece at once. Two different
stretches share a hash once in 10^19 pairs; a span that is reported was compared id by id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.data.shards import Tokens

LENGTHS = (2, 4, 8, 16, 32)  # of n-grams that are looked up, in tokens
REPEATED = (1, 2, 3, 4, 8)  # of n-grams that a text may repeat
PIECE = 1 << 20  # ids of the training split that are looked at at a time
BASE = 0x9E3779B97F4A7C15  # odd, so that no id is lost in a product modulo 2^64

Ids = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class Repetition:
    """How much texts repeat themselves, each by itself."""

    distinct: dict[int, float]  # n → different n-grams per n-gram (distinct-n, Li et al., 2016)
    repeated: dict[int, float]  # n → share of n-grams that have stood there before, in the same text
    longest: int  # ids of the longest stretch that occurs twice in one text


@dataclass(frozen=True)
class Span:
    """A stretch of one of several texts, in ids."""

    length: int
    text: int  # which of the texts
    start: int


@dataclass(frozen=True)
class Novelty:
    """How much of some texts stands in the training split."""

    seen: dict[int, float]  # n → share of the n-grams that occur there
    longest: Span  # the longest stretch that occurs there
    scanned: int  # ids of the training split that were looked at: all of them


def repetition(texts: Ids) -> Repetition:
    """Measure how much texts (n,) repeat themselves."""
    distinct, repeated = {}, {}
    for n in REPEATED:
        grams = [hashes(ids, n) for ids in texts]
        if number := sum(map(len, grams)):
            distinct[n] = len(np.unique(np.concatenate(grams))) / number
            repeated[n] = 1 - sum(len(np.unique(each)) for each in grams) / number
    return Repetition(distinct, repeated, max(map(_longest_repeat, texts), default=0))


def novelty(texts: Ids, training: Tokens) -> Novelty:
    """Look the n-grams and stretches of texts (n,) up in a training split, in one pass over it."""
    grams = {n: np.concatenate([hashes(ids, n) for ids in texts]) for n in LENGTHS}
    seen = {n: np.zeros(len(found), dtype=bool) for n, found in grams.items() if len(found)}
    most, span = max(map(len, texts), default=0), Span(0, 0, 0)
    for start in range(0, len(training), PIECE):
        piece = np.asarray(training[start : start + PIECE + most])
        for n, found in seen.items():
            found |= np.isin(grams[n], _common(grams[n], hashes(piece, n)))
        span = _longest_common(texts, piece, span, most)
    return Novelty({n: float(found.mean()) for n, found in seen.items()}, span, len(training))


def hashes(ids: NDArray[Any], n: int) -> NDArray[np.uint64]:
    """Return the hash of each stretch of n ids, (len - n + 1,): a polynomial of its ids modulo 2^64.

    The hash of 2 n ids is that of the first n times BASE^n plus that of the others: log n operations on all ids.
    """
    if len(ids) < n:
        return np.empty(0, dtype=np.uint64)
    if n == 1:
        return _scattered(ids)
    half = n // 2
    part = hashes(ids, half)
    whole: NDArray[np.uint64] = part[: len(part) - half] * np.uint64(pow(BASE, half, 1 << 64)) + part[half:]
    if n % 2:
        whole = whole[:-1] * np.uint64(BASE) + _scattered(ids[n - 1 :])
    return whole


def _scattered(ids: NDArray[Any]) -> NDArray[np.uint64]:
    """Spread ids over 64 bits, as small numbers would make like hashes of like stretches."""
    spread: NDArray[np.uint64] = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
    spread ^= spread >> np.uint64(31)
    spread *= np.uint64(0x94D049BB133111EB)
    return spread


def _common(wanted: NDArray[np.uint64], among: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the hashes of `among`, which are many, that are wanted; most others are told by their first 16 bits."""
    first = np.zeros(1 << 16, dtype=bool)
    first[wanted >> np.uint64(48)] = True
    near: NDArray[np.uint64] = among[first[among >> np.uint64(48)]]
    return near[np.isin(near, wanted)]


def _longest_common(texts: Ids, piece: NDArray[Any], best: Span, most: int) -> Span:
    """Return the longest stretch of a text that stands in a piece, if it is longer than the best one so far."""
    step = 1
    while best.length + step <= most and (found := _find(texts, piece, best.length + step)):
        best, step = found, 2 * step
    while step > 1:
        step //= 2
        best = _find(texts, piece, best.length + step) or best
    return best


def _find(texts: Ids, piece: NDArray[Any], n: int) -> Span | None:
    """Return a stretch of n ids of a text that stands in a piece, compared id by id; None if there is none."""
    here = hashes(piece, n)
    for number, ids in enumerate(texts):
        own = hashes(ids, n)
        for value in _common(own, here)[:1]:
            start, place = int((own == value).argmax()), int((here == value).argmax())
            if np.array_equal(ids[start : start + n], piece[place : place + n]):
                return Span(n, number, start)
    return None


def _longest_repeat(ids: NDArray[Any]) -> int:
    """Return the length of the longest stretch that occurs twice in a text; the two may overlap."""
    low, high = 0, max(0, len(ids) - 1)
    while low < high:
        middle = (low + high + 1) // 2
        grams = hashes(ids, middle)
        low, high = (middle, high) if len(np.unique(grams)) < len(grams) else (low, middle - 1)
    return low
