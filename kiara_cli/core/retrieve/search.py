"""Question → passages: BM25 and vectors, fused.

In: the name or folder of an index, and a question. Out: the passages that answer it best.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kiara_cli.config.folders import expanded
from kiara_cli.core.data.places import is_address
from kiara_cli.core.retrieve.passage import Passage
from kiara_cli.core.retrieve.rank import fuse, open_ranking
from kiara_cli.core.retrieve.store import INDEX_ROOT, POINTER, Store, open_store
from kiara_cli.errors import KiaraError

LONGEST = 20_000  # characters of a question
CANDIDATES = 100  # of each ranking that are fused


class Index:
    """An index opened for questions; safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._ranking = open_ranking(store.folder / "terms")

    @property
    def name(self) -> str:
        return self.store.name

    def search(self, question: str, k: int = 4) -> list[Passage]:
        """Return the best passages, best first; none where nothing fits. Raises KiaraError if it is too long."""
        if len(question) > LONGEST:
            raise KiaraError(
                f"the question has {len(question):,} characters; a search takes at most {LONGEST:,}", "ask in fewer"
            )
        return [self._passage(number, score) for number, score in fuse([self._ranking.best(question, CANDIDATES)], k)]

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


def open_index(typed: str, folder: Path = INDEX_ROOT) -> Index:
    """Open the index of that name, or in that folder. Raises KiaraError with those that there are."""
    for place in (folder / typed, expanded(typed)):
        if (place / POINTER).is_file():
            return Index(open_store(place.name, place))
    there = names(folder)
    remedy = f"there is: {', '.join(there)}" if there else f"make one first: kiara index DOCS --name {typed}"
    raise KiaraError(f"no index {typed} (looked at {folder / typed}, {expanded(typed)})", remedy)


def names(folder: Path = INDEX_ROOT) -> list[str]:
    """List the indexes in a folder."""
    return sorted(path.parent.name for path in folder.glob(f"*/{POINTER}"))


def vanished(passages: Sequence[Passage]) -> list[str]:
    """List the files of passages that are no longer there: what was indexed is still found, but cannot be opened."""
    files = {passage.file for passage in passages if not is_address(passage.file)}
    return sorted(file for file in files if not Path(file).exists())
