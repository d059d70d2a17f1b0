"""Which vectors are nearest to a question's: all of them compared, or by a graph of neighbours (HNSW, usearch).

In: vectors of length 1. Out: the numbers of the nearest, nearest first. The graph holds them in 8 bits and finds
candidates; these are compared in full.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.retrieve.rank import EXTRA, top
from kiara_cli.errors import KiaraError

CONNECTIVITY, EFFORT_ADDING, EFFORT_SEARCHING = 16, 128, 256  # neighbours, and candidates looked at
CANDIDATES = 4  # of the graph, for each that is wanted
BLOCK = 1 << 14  # vectors added at a time
REMOVED_SHARE = 0.2  # of a graph; with more removed it is built anew


def exact(vectors: NDArray[np.float32], question: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Compare all vectors, (N, D) with (D,)."""
    return top(vectors @ question, count)


class Graph:
    """HNSW over the vectors of an index, by the ids of its chunks."""

    def __init__(self, graph: Any, rows: NDArray[Any]) -> None:
        self._graph = graph
        self._order = np.argsort(rows["id"]).astype(np.int64)
        self._ids = np.ascontiguousarray(rows["id"][self._order])

    def best(self, vectors: NDArray[np.float32], question: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """Return the numbers of about the nearest vectors, nearest first."""
        found = self._graph.search(question, min(CANDIDATES * count, len(self._ids))).keys
        numbers = np.sort(self._order[np.searchsorted(self._ids, np.asarray(found, np.uint64))])
        return numbers[top(vectors[numbers] @ question, count)]


def open_graph(path: Path, rows: NDArray[Any]) -> Graph:
    """Map a graph into memory."""
    return Graph(library().restore(str(path), view=True, expansion_search=EFFORT_SEARCHING), rows)


def save_graph(
    vectors: Path,
    rows: NDArray[Any],
    path: Path,
    before: tuple[Path, NDArray[Any]] | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> int:
    """Write the graph of the vectors in a file; of the one `before` and its rows, only what differs is changed.

    The vectors of equal ids must be equal. Return how many vectors were added.
    """
    ids = np.asarray(rows["id"], np.uint64)
    known = np.zeros(0, np.uint64) if before is None else np.asarray(before[1]["id"], np.uint64)
    gone = known[~np.isin(known, ids)]
    if before is not None and len(gone) <= REMOVED_SHARE * len(known):
        graph = library().restore(str(before[0]), expansion_add=EFFORT_ADDING)
        if len(gone):
            graph.remove(gone)
        new = np.flatnonzero(~np.isin(ids, known))
    else:
        width = np.load(vectors, mmap_mode="r").shape[1]
        graph = library()(ndim=width, metric="ip", dtype="i8", connectivity=CONNECTIVITY, expansion_add=EFFORT_ADDING)
        new = np.arange(len(ids))
    for at in range(0, len(new), BLOCK):
        block = new[at : at + BLOCK]
        graph.add(ids[block], np.load(vectors, mmap_mode="r")[block])  # opened anew: what was read leaves the memory
        report(at + len(block))
    graph.save(str(path))
    return len(new)


def library() -> Any:
    """Return usearch's index. Raises KiaraError where it is not installed."""
    try:
        from usearch.index import Index
    except ImportError:
        raise KiaraError(
            "search by a graph (HNSW) needs usearch, which is not installed", f"{EXTRA}, or set retrieve.search=exact"
        ) from None
    return Index
