"""The vectors of an index's chunks: those of unchanged chunks are taken over, the others made.

In: the chunks, the index before, the embedder that is asked for. Out: vectors.npy and embedder/ of the new one.

An embedder that learns from the documents keeps what it has learned, so that only changed chunks are embedded, until
the index has grown by GROWTH or shrunk below 1 - GROWTH since: then it learns anew and all chunks are embedded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.retrieve.embed import AUTO, Embedder, Means, choose, reopen
from kiara_cli.core.retrieve.store import Store

GROWTH = 0.5  # share of the chunks that it was fitted on
BATCH = 1024  # chunks embedded at a time


@dataclass(frozen=True)
class Embedded:
    """What was embedded; `fitted`: how many chunks the embedder has learned from."""

    identity: dict[str, Any]
    vectors: NDArray[np.float32] | None = None
    reused: int = 0
    embedded: int = 0
    refitted: bool = False
    fitted: int = 0

    @property
    def dimensions(self) -> int:
        return 0 if self.vectors is None else int(self.vectors.shape[1])


class Texts(Sequence[str]):
    """What chunks are found by, read from the disk when they are asked for."""

    def __init__(self, store: Store, numbers: NDArray[np.int64]) -> None:
        self._store, self._numbers = store, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self._store.titled(int(number)) for number in self._numbers[at]]
        return self._store.titled(int(self._numbers[at]))


def embed(store: Store, before: Store | None, means: Means, report: Callable[[int, int], None]) -> Embedded:
    """Write the vectors of all chunks. Raises KiaraError."""
    word = means.settings.embedder
    old = before is not None and bool(before.meta.embedder)
    if before is not None and (old or word == AUTO):
        embedder = reopen(before.meta.embedder, before.folder / "embedder", means, before.name)
    else:
        embedder = choose(word, means)
    if embedder is None:
        return Embedded({})
    numbers, fitted = np.arange(len(store.rows)), before.meta.fitted if before is not None else 0
    refit = embedder.fits and not (1 - GROWTH <= len(numbers) / max(1, fitted) <= 1 + GROWTH)
    reusable = None if before is None or before.vectors is None or refit else before
    if refit or reusable is None:
        report(0, len(numbers))
        embedder.fit(Texts(store, numbers))
        fitted = len(numbers)
    folder = store.folder / "embedder"
    folder.mkdir()
    embedder.save(folder)
    vectors, new = fill(store, reusable, embedder, report)
    return Embedded(embedder.identity(), vectors, len(numbers) - new, new, refit and bool(old), fitted)


def fill(
    store: Store, before: Store | None, embedder: Embedder, report: Callable[[int, int], None]
) -> tuple[NDArray[np.float32], int]:
    """Write vectors.npy, mapped into memory; return it and how many vectors were made."""
    count = len(store.rows)
    vectors = np.lib.format.open_memmap(
        store.folder / "vectors.npy", "w+", dtype=np.float32, shape=(count, embedder.dimensions)
    )
    new = np.arange(count)
    if before is not None and before.vectors is not None:
        order = np.argsort(before.rows["key"])
        known = before.rows["key"][order]
        at = np.minimum(np.searchsorted(known, store.rows["key"]), len(known) - 1)
        same = known[at] == store.rows["key"]
        old = np.flatnonzero(same)
        for start in range(0, len(old), BATCH):
            some = old[start : start + BATCH]
            vectors[some] = before.vectors[order[at[some]]]
        new = np.flatnonzero(~same)
    texts = Texts(store, new)
    for start in range(0, len(new), BATCH):
        report(start, len(new))
        vectors[new[start : start + BATCH]] = embedder.documents(texts[start : start + BATCH])
    vectors.flush()
    return vectors, len(new)
