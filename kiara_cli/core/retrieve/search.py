"""Question → passages: BM25 and vectors, fused.

In: the name or folder of an index, and a question. Out: the passages that answer it best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kiara_cli.config.folders import expanded
from kiara_cli.core.data.places import is_address
from kiara_cli.core.retrieve.embed import Embedder, Means, reopen
from kiara_cli.core.retrieve.nearest import Graph, exact, open_graph
from kiara_cli.core.retrieve.passage import Passage
from kiara_cli.core.retrieve.rank import fuse, open_ranking
from kiara_cli.core.retrieve.store import INDEX_ROOT, POINTER, Store, open_store, opened
from kiara_cli.errors import KiaraError

LONGEST = 20_000  # characters of a question
CANDIDATES = 100  # of each ranking that are fused


class Index:
    """An index opened for questions; safe to use from several threads."""

    def __init__(self, store: Store, embedder: Embedder | None = None, graph: Graph | None = None) -> None:
        self.store, self.embedder, self._graph = store, embedder, graph
        self.ranking = open_ranking(store.folder / "terms")

    @property
    def name(self) -> str:
        return self.store.name

    def search(self, question: str, k: int = 4) -> list[Passage]:
        """Return the best passages, best first; none where nothing fits. Raises KiaraError if it is too long."""
        if len(question) > LONGEST:
            raise KiaraError(
                f"the question has {len(question):,} characters; a search takes at most {LONGEST:,}", "ask in fewer"
            )
        return [self._passage(number, score) for number, score in fuse(self.rankings(question), k)]

    def rankings(self, question: str) -> list[tuple[NDArray[np.int64], float]]:
        """Return the numbers of the best chunks by BM25 and by vectors, and how much either ranking counts."""
        rankings = [(self.ranking.best(question, CANDIDATES), 1.0)]
        if self.embedder is not None and self.store.vectors is not None:
            rankings.append((self.nearest(self.embedder.question(question), CANDIDATES), self.embedder.weight))
        return rankings

    def nearest(self, vector: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """Return the numbers of the chunks whose vectors are nearest; none for one of zeros."""
        assert self.store.vectors is not None
        if not vector.any():
            return np.zeros(0, np.int64)
        if self._graph is not None:
            return self._graph.best(self.store.vectors, vector, count)
        return exact(self.store.vectors, vector, count)

    def passage(self, id: str) -> Passage | None:
        """Return the passage of that id with a score of 0, or None if the index has none."""
        try:
            found = (self.store.rows["id"] == int(id, 16)).nonzero()[0]
        except (ValueError, OverflowError):
            return None
        return self._passage(int(found[0]), 0.0) if len(found) else None

    def _passage(self, number: int, score: float) -> Passage:
        store, row = self.store, self.store.rows[number]
        return Passage(
            store.text(number), store.files[int(row["file"])].path, store.headings[int(row["heading"])],
            int(row["first"]), int(row["last"]), score, f"{int(row['id']):016x}",
        )  # fmt: skip


def open_index(typed: str, folder: Path = INDEX_ROOT, means: Means | None = None) -> Index:
    """Open the index of that name, or in that folder, with the embedder that made it. Raises KiaraError.

    The error for one that is not there says which there are.
    """
    means = Means() if means is None else means
    for place in (folder / typed, expanded(typed)):
        if (place / POINTER).is_file():
            return opened(place.resolve().name, place, lambda store: _index(store, means))
    there = names(folder)
    remedy = f"there is: {', '.join(there)}" if there else f"make one first: kiara index DOCS --name {typed}"
    raise KiaraError(f"no index {typed} (looked at {folder / typed}, {expanded(typed)})", remedy)


def _index(store: Store, means: Means) -> Index:
    """Open all that belongs to an index."""
    graph = None
    if store.meta.graph and means.settings.search != "exact":
        graph = open_graph(store.folder / "graph.usearch", store.rows)
    return Index(store, reopen(store.meta.embedder, store.folder / "embedder", means, store.name), graph)


def names(folder: Path = INDEX_ROOT) -> list[str]:
    """List the indexes in a folder."""
    return sorted(path.parent.name for path in folder.glob(f"*/{POINTER}"))


@dataclass(frozen=True)
class Listed:
    """An index that a person may choose; `problem` says why one cannot be opened."""

    name: str
    documents: int
    passages: int
    embedder: str
    search: str
    bytes: int
    modified: float  # in seconds since 1970
    sources: tuple[str, ...]
    problem: str | None = None


def listed(folder: Path = INDEX_ROOT) -> list[Listed]:
    """List the indexes in a folder, by name."""
    found = []
    for name in names(folder):
        place = folder / name
        size, modified = (
            sum(path.stat().st_size for path in place.rglob("*") if path.is_file()),
            place.stat().st_mtime,
        )
        try:
            store = open_store(name, place)
        except KiaraError as error:
            found.append(Listed(name, 0, 0, "", "", size, modified, (), error.cause))
            continue
        meta, files = store.meta, sum(entry.count > 0 for entry in store.files)
        search = "hnsw" if meta.graph else "exact"
        word = str(meta.embedder.get("word", "none"))
        found.append(Listed(name, files, meta.chunks, word, search, size, modified, meta.sources))
    return found


def vanished(passages: Sequence[Passage]) -> list[str]:
    """List the files of passages that are no longer there: what was indexed is still found, but cannot be opened."""
    files = {passage.file for passage in passages if not is_address(passage.file)}
    return sorted(file for file in files if not Path(file).exists())
