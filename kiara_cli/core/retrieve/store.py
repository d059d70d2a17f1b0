"""data/index/<name>/: the one module that writes and reads the files of an index.

In: chunks of documents. Out: a folder that is whole or the one before: everything is written to a folder of its own,
and index.json, replaced in one step, says which one counts. What is large is mapped into memory, not read.

```
index.json           which generation counts
<generation>/
  meta.json          version, sources, how it was cut, the embedder and its hash, counts
  files.json         path, hash of the bytes, kind, first chunk, number of chunks
  headings.json      every heading path that occurs
  texts.bin          the chunks' texts in UTF-8, one after the other
  chunks.npy         a row of `ROW` for each
  terms/             BM25's scores (bm25s)
  vectors.npy        (chunks, D) float32, each of length 1
  embedder/          what the embedder has fitted
  graph.usearch      HNSW over the vectors
```
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.checkpoint.atomic import replacing
from kiara_cli.core.data.claim import claimed
from kiara_cli.core.retrieve.chunk import Chunk
from kiara_cli.errors import KiaraError

T = TypeVar("T")
FORMAT = 1
BLOCK = 4096  # chunks held as objects
INDEX_ROOT = Path("data/index")
POINTER = "index.json"
ROW = np.dtype(
    [
        ("id", "<u8"), ("key", "<u8"), ("start", "<u8"), ("bytes", "<u4"), ("file", "<u4"), ("heading", "<u4"),
        ("first", "<u4"), ("last", "<u4"),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Filed:
    """A file of an index and the chunks that it became."""

    path: str
    digest: str  # SHA-256 of its bytes
    kind: str
    first: int
    count: int


@dataclass(frozen=True)
class Meta:
    """What an index is made of."""

    sources: tuple[str, ...]
    cutting: dict[str, Any]  # the settings that decide how documents are cut
    embedder: dict[str, Any]  # how to open it again, and its hash; empty: none
    chunks: int
    dimensions: int = 0  # of the vectors
    fitted: int = 0  # chunks that the embedder was fitted on
    graph: bool = False
    version: int = FORMAT


@dataclass
class Store:
    """An index on disk, opened; safe to read from several threads."""

    name: str
    folder: Path  # of the generation
    meta: Meta
    files: list[Filed]
    headings: list[tuple[str, ...]]
    rows: NDArray[Any]
    texts: bytes | mmap.mmap
    vectors: NDArray[np.float32] | None = field(default=None)

    def text(self, number: int) -> str:
        """Return the text of a chunk."""
        return self.raw(number).decode()

    def raw(self, number: int) -> bytes:
        """Return the text of a chunk in UTF-8."""
        row = self.rows[number]
        start = int(row["start"])
        return self.texts[start : start + int(row["bytes"])]

    def titled(self, number: int) -> str:
        """Return what a chunk is found by: its headings and its text."""
        return titled(self.headings[int(self.rows[number]["heading"])], self.text(number))


def titled(heading: Sequence[str], text: str) -> str:
    """Put the headings before a text."""
    return "\n".join((" ".join(heading), text)) if heading else text


def open_store(name: str, folder: Path) -> Store:
    """Open the index in a folder. Raises KiaraError for one that is damaged or of another version."""
    return opened(name, folder, lambda store: store)


def opened(name: str, folder: Path, use: Callable[[Store], T]) -> T:
    """Open the index in a folder and all that `use` opens of it. Raises KiaraError as `open_store` does."""
    again = f"index the documents again: kiara index DOCS --name {name} --rebuild"
    for attempt in range(3):
        try:
            generation = folder / json.loads((folder / POINTER).read_text(encoding="utf-8"))["generation"]
            return use(_opened(name, generation, again))
        except FileNotFoundError as error:  # replaced while it was being opened: look again
            if attempt == 2:
                gone = Path(error.filename).name
                raise KiaraError(f"the index {name} is damaged: {gone} is missing", again) from None
        except (ValueError, LookupError, TypeError, OSError, RuntimeError, EOFError) as error:
            said = " ".join(str(error).split())
            raise KiaraError(f"the index {name} is damaged ({said})", again) from None
    raise AssertionError


def _opened(name: str, folder: Path, again: str) -> Store:
    facts = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    if facts.get("version") != FORMAT:
        raise KiaraError(f"the index {name} is of version {facts.get('version')}; this Kiara reads {FORMAT}", again)
    meta = Meta(**facts | {"sources": tuple(facts["sources"])})
    files = [Filed(**entry) for entry in json.loads((folder / "files.json").read_text(encoding="utf-8"))]
    headings = [tuple(path) for path in json.loads((folder / "headings.json").read_text(encoding="utf-8"))]
    rows = np.load(folder / "chunks.npy", mmap_mode="r")
    with (folder / "texts.bin").open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        texts = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    vectors = np.load(folder / "vectors.npy", mmap_mode="r") if meta.dimensions else None
    whole = len(rows) == meta.chunks and (vectors is None or vectors.shape == (meta.chunks, meta.dimensions))
    if not whole or (len(rows) and int(rows[-1]["start"]) + int(rows[-1]["bytes"]) != size):
        raise KiaraError(f"the index {name} is damaged: its files do not belong together", again)
    return Store(name, folder, meta, files, headings, rows, texts, vectors)


class Draft:
    """A generation that is being written; chunks are added in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[Filed] = []
        self._headings: dict[tuple[str, ...], int] = {}
        self._blocks: list[NDArray[Any]] = []
        self._texts = (folder / "texts.bin").open("wb")
        self._size = 0
        self.count = 0

    def add_file(self, path: str, digest: str, kind: str, chunks: Iterable[tuple[int, int, Chunk]]) -> None:
        """Append the chunks of a file: (id, key, chunk) each."""
        number, first = len(self.files), self.count
        while block := list(islice(chunks := iter(chunks), BLOCK)):
            rows = np.zeros(len(block), ROW)
            for place, (id_, key, chunk) in enumerate(block):
                raw = chunk.text.encode()
                heading = self._headings.setdefault(chunk.heading, len(self._headings))
                rows[place] = (id_, key, self._size, len(raw), number, heading, chunk.first_line, chunk.last_line)
                self._texts.write(raw)
                self._size += len(raw)
            self._blocks.append(rows)
            self.count += len(rows)
        self.files.append(Filed(path, digest, kind, first, self.count - first))

    def copy_file(self, before: Store, filed: Filed) -> None:
        """Append the chunks that a file had in another generation."""
        block = np.array(before.rows[filed.first : filed.first + filed.count])
        for place in range(len(block)):
            raw = before.raw(filed.first + place)
            heading = before.headings[int(block[place]["heading"])]
            block[place]["heading"] = self._headings.setdefault(heading, len(self._headings))
            block[place]["start"] = self._size
            self._texts.write(raw)
            self._size += len(raw)
        block["file"] = len(self.files)
        self.files.append(Filed(filed.path, filed.digest, filed.kind, self.count, filed.count))
        self._blocks.append(block)
        self.count += filed.count

    def rows(self) -> NDArray[Any]:
        """Return the rows of all chunks so far."""
        return np.concatenate(self._blocks) if self._blocks else np.zeros(0, ROW)

    def close_texts(self, name: str) -> Store:
        """Finish the chunks; return them to be read, for what is computed from them."""
        self._texts.close()
        rows = self.rows()
        np.save(self.folder / "chunks.npy", rows)
        _write_json(self.folder / "files.json", [asdict(entry) for entry in self.files])
        _write_json(self.folder / "headings.json", list(self._headings))
        with (self.folder / "texts.bin").open("rb") as file:
            texts = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self._size else b""
        return Store(name, self.folder, Meta((), {}, {}, self.count), self.files, list(self._headings), rows, texts)

    def describe(self, meta: Meta) -> None:
        """Write what the generation is."""
        _write_json(self.folder / "meta.json", asdict(meta))

    def close_files(self) -> None:
        self._texts.close()


@contextlib.contextmanager
def drafting(name: str, folder: Path) -> Iterator[Draft]:
    """Write a new generation of an index, which counts once the block has ended; the one before stays until then.

    Raises KiaraError where another process writes the same index.
    """

    def refuse() -> None:
        raise KiaraError(
            f"another kiara index is writing the index {name}", "wait until it has ended, or give another --name"
        )

    with claimed(folder.parent / f".{folder.name}.lock", refuse):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        generation = f"{secrets.token_hex(6)}"
        partial = folder / f".{generation}.partial"
        partial.mkdir()
        draft = Draft(partial)
        try:
            yield draft
            draft.close_files()
            for path in partial.rglob("*"):
                _sync(path)
            _sync(partial)
            partial.rename(folder / generation)
            with replacing(folder / POINTER) as pointer:
                _write_json(pointer, {"generation": generation})
        finally:
            draft.close_files()
            shutil.rmtree(partial, ignore_errors=True)
        _sweep(folder)


def _sweep(folder: Path) -> None:
    """Delete the generations that do not count: replaced ones, and what a killed process left."""
    try:
        counts = json.loads((folder / POINTER).read_text(encoding="utf-8"))["generation"]
    except (OSError, ValueError, KeyError, TypeError):
        counts = None
    for path in folder.iterdir():
        if path.is_dir() and path.name != counts:
            shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
