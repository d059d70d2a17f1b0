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
BATCH, BLOCK = 1024, 8192  # chunks embedded, and written, at a time


@dataclass(frozen=True)
class Embedded:
    """What was embedded; `fitted`: how many chunks the embedder has learned from."""

    identity: dict[str, Any]
    dimensions: int = 0
    reused: int = 0
    embedded: int = 0
    refitted: bool = False
    fitted: int = 0


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
    new = fill(store, reusable, embedder, report)
    return Embedded(embedder.identity(), embedder.dimensions, len(numbers) - new, new, refit and bool(old), fitted)


def fill(store: Store, before: Store | None, embedder: Embedder, report: Callable[[int, int], None]) -> int:
    """Write vectors.npy block by block; return how many vectors were made.

    It is not mapped into memory for that, as what was written would stay there.
    """
    count = len(store.rows)
    sources = known(store, before)  # where each vector is in the index before; -1: nowhere
    missing, made = int((sources < 0).sum()), 0
    with (store.folder / "vectors.npy").open("wb") as file:
        shape = {"descr": "<f4", "fortran_order": False, "shape": (count, embedder.dimensions)}
        np.lib.format.write_array_header_1_0(file, shape)
        for start in range(0, count, BLOCK):
            block = sources[start : start + BLOCK]
            vectors = np.zeros((len(block), embedder.dimensions), "<f4")
            if before is not None and before.vectors is not None:
                vectors[block >= 0] = before.vectors[block[block >= 0]]
            new = np.flatnonzero(block < 0)
            for at in range(0, len(new), BATCH):
                some = new[at : at + BATCH]
                report(made, missing)
                vectors[some] = embedder.documents(Texts(store, start + some)[:])
                made += len(some)
            file.write(vectors.tobytes())
    return made


def known(store: Store, before: Store | None) -> NDArray[np.int64]:
    """Return for each chunk the number of one with the same text in the index before, or -1."""
    if before is None or before.vectors is None or not len(before.rows):
        return np.full(len(store.rows), -1)
    order = np.argsort(before.rows["key"])
    keys = before.rows["key"][order]
    at = np.minimum(np.searchsorted(keys, store.rows["key"]), len(keys) - 1)
    return np.where(keys[at] == store.rows["key"], order[at], -1)
