"""train*.bin and val*.bin: the one module that writes and reads token files.

In: token ids. Out: flat files of uint16 or uint32, each behind a header, opened as memory maps and read as one. The
header says what the numbers mean: magic, format version, bytes per token, vocabulary size, token count, and the
hashes of the tokenizer and of the data, which files of version 1 do not have.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kiara_cli.errors import KiaraError

MAGIC = b"KIARATOK"
VERSION = 2
HEADER = struct.Struct("<8sIIQQ32s32s")  # magic, version, bytes per token, vocabulary, tokens, tokenizer, data
assert HEADER.size == 96
HEADERS = {1: struct.Struct("<8sIIQQ32s"), VERSION: HEADER}  # by version: what is read
Tokens: TypeAlias = "NDArray[np.uint16] | NDArray[np.uint32] | Shards"

DTYPES: dict[int, np.dtype[np.uint16] | np.dtype[np.uint32]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
WHOLLY_CHECKED = 1 << 30  # bytes; of larger files every 64th block is searched for ids beyond the vocabulary
BLOCK = 1 << 22  # ids looked at at a time
REMEDY = "delete its folder and tokenize again"


def dtype_for(vocab_size: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    """Return the narrowest type that holds every id."""
    return DTYPES[2 if vocab_size <= 2**16 else 4]


@dataclass(frozen=True)
class Stamp:
    """What every token file of a folder says of itself."""

    vocab_size: int
    tokenizer_hash: str
    data_hash: str

    def header(self, count: int) -> bytes:
        width = dtype_for(self.vocab_size).itemsize
        hashes = bytes.fromhex(self.tokenizer_hash), bytes.fromhex(self.data_hash)
        return HEADER.pack(MAGIC, VERSION, width, self.vocab_size, count, *hashes)


class Writer:
    """Writes one split of `total` ids as a file, or as several of at most `shard_tokens` each.

    The count goes into a header last, so that a file cut short never passes for a whole one.
    """

    def __init__(self, folder: Path, part: str, total: int, shard_tokens: int, stamp: Stamp) -> None:
        self._stamp, self._limit = stamp, shard_tokens
        several = total > shard_tokens
        count = max(1, -(-total // shard_tokens))
        self._paths = [folder / (f"{part}-{index:05}.bin" if several else f"{part}.bin") for index in range(count)]
        self._file: BinaryIO | None = None
        self._written = 0
        self._open()

    def write(self, ids: NDArray[Any]) -> None:
        """Append ids, (n,)."""
        while len(ids):
            if self._written == self._limit:
                self.close()
                self._open()
            assert self._file is not None
            here = ids[: self._limit - self._written]
            assert int(here.max()) < self._stamp.vocab_size
            self._file.write(here.astype(dtype_for(self._stamp.vocab_size)).tobytes())
            self._written += len(here)
            ids = ids[len(here) :]

    def close(self) -> None:
        """Finish the file at hand."""
        if self._file is not None:
            with self._file as file:
                file.seek(0)
                file.write(self._stamp.header(self._written))
            self._file = None

    def abandon(self) -> None:
        """Stop without finishing."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> None:
        self._file, self._written = self._paths.pop(0).open("wb"), 0
        self._file.write(self._stamp.header(0))


class Shards:
    """Several token files read as one array of ids, (n,), without copying them."""

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in parts])
        self.starts = self.ends - [len(part) for part in parts]
        self.dtype = self.parts[0].dtype

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def shape(self) -> tuple[int]:
        return (len(self),)

    def __getitem__(self, key: Any) -> Any:
        """Take one id, a slice, or ids at an array of places in the array's shape."""
        if isinstance(key, slice):
            return self._slice(*key.indices(len(self)))
        places = np.asarray(key)
        flat = places.ravel()
        flat = np.where(flat < 0, flat + len(self), flat)
        which = self.ends.searchsorted(flat, side="right")
        taken = np.empty(len(flat), dtype=self.dtype)
        for index in np.unique(which):
            here = which == index
            taken[here] = self.parts[index][flat[here] - self.starts[index]]
        return taken.reshape(places.shape) if places.ndim else taken[0]

    def __iter__(self) -> Iterator[Any]:
        return (token for part in self.parts for token in part)

    def tolist(self) -> list[int]:
        return [token for part in self.parts for token in part.tolist()]

    def _slice(self, start: int, stop: int, step: int) -> NDArray[Any]:
        if step != 1:
            return np.asarray(self[np.arange(start, stop, step)])
        pieces = [
            part[max(start - first, 0) : stop - first]
            for part, first, last in zip(self.parts, self.starts.tolist(), self.ends.tolist(), strict=True)
            if start < last and stop > first
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, self.dtype), *pieces])


def open_split(folder: Path, part: str, stamp: Stamp, count: int) -> Tokens:
    """Memory-map all ids of a split, (n,). Raises KiaraError if a file is damaged, missing or another's."""
    single = folder / f"{part}.bin"
    paths = [single] if single.exists() else sorted(folder.glob(f"{part}-*.bin"))
    parts = [open_tokens(path, stamp) for path in paths or [single]]
    if (found := sum(map(len, parts))) != count:
        raise KiaraError(f"{folder} holds {found:,} of the {count:,} tokens of its {part} split", REMEDY)
    return parts[0] if len(parts) == 1 else Shards(parts)


def open_tokens(path: Path, stamp: Stamp) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """Memory-map the ids of a token file, (n,).

    Raises KiaraError if the file is damaged, or made of other data or with another tokenizer.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEADER.size)
    except OSError as error:
        raise KiaraError(f"cannot open the token file {path}: {error.strerror}", REMEDY) from None
    if len(head) < 16 or not head.startswith(MAGIC):
        raise KiaraError(f"{path} is not a Kiara token file", REMEDY)
    version, width = struct.unpack_from("<II", head, len(MAGIC))
    if version not in HEADERS or width not in DTYPES:
        raise KiaraError(f"{path} has format version {version}, this Kiara reads up to {VERSION}", REMEDY)
    size, header = path.stat().st_size, HEADERS[version]
    _, _, _, vocabulary, count, tokenizer, *data = header.unpack(head[: header.size].ljust(header.size, b"\0"))
    if size != header.size + count * width:
        raise KiaraError(f"{path} is truncated: its header promises {count:,} tokens", REMEDY)
    if tokenizer.hex() != stamp.tokenizer_hash or vocabulary != stamp.vocab_size:
        raise KiaraError(f"{path} was made with another tokenizer", REMEDY)
    if data and data[0].hex() != stamp.data_hash:
        raise KiaraError(f"{path} was made of other data than the folder it lies in", REMEDY)
    if count == 0:
        return np.empty(0, dtype=DTYPES[width])
    _check_ids(path, DTYPES[width], header.size, count, vocabulary)
    return np.memmap(path, dtype=DTYPES[width], mode="r", offset=header.size, shape=(count,))


def _check_ids(path: Path, dtype: np.dtype[Any], offset: int, count: int, vocabulary: int) -> None:
    """Raise KiaraError for an id beyond the vocabulary. Reads: what a map has touched counts as memory."""
    step = BLOCK if count * dtype.itemsize <= WHOLLY_CHECKED else 64 * BLOCK
    with path.open("rb") as file:
        for start in range(0, count, step):
            file.seek(offset + start * dtype.itemsize)
            if (highest := int(np.fromfile(file, dtype, BLOCK).max())) >= vocabulary:
                raise KiaraError(f"{path} is damaged: it holds the id {highest:,} of {vocabulary:,}", REMEDY)
