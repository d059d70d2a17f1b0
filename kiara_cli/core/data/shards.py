"""train.bin and val.bin: the one module that writes and reads token files.

In: token ids. Out: a flat file of uint16 or uint32 behind a 64-byte header, opened as a memory map. The header
says what the numbers mean: magic, format version, bytes per token, vocabulary size, token count, tokenizer hash.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kiara_cli.errors import KiaraError

MAGIC = b"KIARATOK"
VERSION = 1
HEADER = struct.Struct("<8sIIQQ32s")  # magic, version, bytes per token, vocabulary, tokens, tokenizer hash
assert HEADER.size == 64
Tokens: TypeAlias = NDArray[np.uint16] | NDArray[np.uint32]

DTYPES: dict[int, np.dtype[np.uint16] | np.dtype[np.uint32]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}


def write_tokens(path: Path, chunks: Iterable[list[int]], vocab_size: int, tokenizer_hash: str) -> int:
    """Write chunks of ids one after the other and return how many ids there were.

    The count goes into the header last, so that a file cut short never passes for a whole one.
    """
    width = 2 if vocab_size <= 2**16 else 4
    digest = bytes.fromhex(tokenizer_hash)
    count = 0
    with path.open("wb") as file:
        file.write(HEADER.pack(MAGIC, VERSION, width, vocab_size, 0, digest))
        for chunk in chunks:
            ids = np.asarray(chunk, dtype=np.int64)
            assert ids.size == 0 or (ids.min() >= 0 and ids.max() < vocab_size)
            file.write(ids.astype(DTYPES[width]).tobytes())
            count += ids.size
        file.seek(0)
        file.write(HEADER.pack(MAGIC, VERSION, width, vocab_size, count, digest))
    return count


def open_tokens(path: Path, vocab_size: int, tokenizer_hash: str) -> Tokens:
    """Memory-map the ids of a token file, (n,).

    Raises KiaraError if the file is damaged, or made with another tokenizer than the one given.
    """
    remedy = "delete its folder and tokenize again"
    try:
        with path.open("rb") as file:
            head = file.read(HEADER.size)
    except OSError as error:
        raise KiaraError(f"cannot open the token file {path}: {error.strerror}", remedy) from None
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise KiaraError(f"{path} is not a Kiara token file", remedy)
    _, version, width, vocabulary, count, digest = HEADER.unpack(head)
    if version != VERSION or width not in DTYPES:
        raise KiaraError(f"{path} has format version {version}, this Kiara reads {VERSION}", remedy)
    if path.stat().st_size != HEADER.size + count * width:
        raise KiaraError(f"{path} is truncated: its header promises {count:,} tokens", remedy)
    if digest.hex() != tokenizer_hash or vocabulary != vocab_size:
        raise KiaraError(f"{path} was made with another tokenizer", remedy)
    if count == 0:
        return np.empty(0, dtype=DTYPES[width])
    return np.memmap(path, dtype=DTYPES[width], mode="r", offset=HEADER.size, shape=(count,))
