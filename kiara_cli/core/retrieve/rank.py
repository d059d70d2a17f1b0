"""Which chunks hold the words of a question: BM25 by bm25s; and how two rankings become one.

In: the terms of each chunk. Out: the numbers of the best chunks.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.retrieve.words import Words
from kiara_cli.errors import KiaraError

RRF_K = 60  # Cormack, Clarke and Büttcher, Reciprocal rank fusion outperforms Condorcet, 2009
SORTED = 1 << 22  # scores sorted at a time
EXTRA = "run: pip install 'kiara-slm[retrieval]'"


class Counted(Sequence[list[int]]):
    """The ids of each chunk's terms, flat in memory; a list of lists to whoever reads it."""

    def __init__(self) -> None:
        self.flat, self.ends = array("i"), array("q", [0])

    def add(self, ids: Iterable[int]) -> None:
        self.flat.extend(ids)
        self.ends.append(len(self.flat))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, number: Any) -> Any:
        return self.flat[self.ends[number] : self.ends[number + 1]].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[number] for number in range(len(self)))


class Ranking:
    """BM25 over the chunks of an index."""

    def __init__(self, bm25: Any) -> None:
        self._bm25, self._words = bm25, Words()

    def best(self, question: str, count: int) -> NDArray[np.int64]:
        """Return the numbers of the chunks that share a term with the question, best first, at most `count`."""
        vocabulary = self._bm25.vocab_dict
        asked = Counter(vocabulary[term] for term in self._words.asked(question) if term in vocabulary)
        if not asked:
            return np.zeros(0, np.int64)
        scores = self._bm25.get_scores_from_ids(list(asked))
        return top(scores, count, above=0.0)


def top(scores: NDArray[np.float32], count: int, above: float = -np.inf) -> NDArray[np.int64]:
    """Return the numbers of the highest scores, best first; of equal ones the earlier."""
    count = min(count, len(scores))
    chosen = np.argpartition(scores, len(scores) - count)[len(scores) - count :] if count < len(scores) else None
    numbers = np.arange(len(scores)) if chosen is None else np.sort(chosen)
    numbers = numbers[scores[numbers] > above]
    return numbers[np.argsort(-scores[numbers], kind="stable")]


def fuse(rankings: Iterable[tuple[NDArray[np.int64], float]], count: int) -> list[tuple[int, float]]:
    """Return the numbers that stand highest in all rankings together, scored by the sum of weight / (60 + rank)."""
    scores: dict[int, float] = {}
    for ranking, weight in rankings:
        for rank, number in enumerate(ranking.tolist(), 1):
            scores[number] = scores.get(number, 0.0) + weight / (RRF_K + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:count]


def library() -> Any:
    """Return bm25s. Raises KiaraError where it is not installed."""
    try:
        import bm25s
    except ImportError:
        raise KiaraError("searching documents needs bm25s, which is not installed", EXTRA) from None
    return bm25s


def save_ranking(texts: Iterable[str], folder: Path) -> None:
    """Count the terms of the chunks and write their BM25 scores."""
    words, counted = Words(), Counted()
    vocabulary: dict[str, int] = {"": 0}
    for text in texts:
        counted.add(vocabulary.setdefault(term, len(vocabulary)) for term in words.terms(text))
    bm25 = library().BM25(backend="numpy")
    bm25._np_csc = by_column  # which bm25s lets numba replace, too; its own takes twice the memory
    bm25.index(SimpleNamespace(ids=counted, vocab=vocabulary), show_progress=False)
    bm25.save(folder, show_progress=False)


def by_column(
    data: NDArray[np.float32], rows: NDArray[np.int32], cols: NDArray[np.int32], shape: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64]]:
    """Return the values and rows of a sparse matrix by column, and where each column begins; rows come in order."""
    begins = np.zeros(shape[1] + 1, np.int64)
    np.cumsum(np.bincount(cols, minlength=shape[1]), out=begins[1:])
    heads, values, places = begins[:-1].copy(), np.empty_like(data), np.empty_like(rows)
    for start in range(0, len(cols), SORTED):
        part = slice(start, start + SORTED)
        order = np.argsort(cols[part], kind="stable")
        column = cols[part][order]
        first = np.flatnonzero(np.diff(column, prepend=-1))
        counts = np.diff(first, append=len(column))
        to = heads[column] + np.arange(len(column)) - np.repeat(first, counts)
        values[to], places[to] = data[part][order], rows[part][order]
        heads[column[first]] += counts
    return values, places, begins


def open_ranking(folder: Path) -> Ranking:
    """Open what `save_ranking` wrote."""
    return Ranking(library().BM25.load(folder, mmap=True, show_progress=False))
