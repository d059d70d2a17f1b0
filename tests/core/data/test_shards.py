"""A token file says what its numbers mean, and one that lies is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kiara_cli.core.data.shards import HEADER, open_tokens, write_tokens
from kiara_cli.errors import KiaraError

HASH = "ab" * 32
PATH = Path("train.bin")


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(300, np.uint16), (2**16, np.uint16), (2**16 + 1, np.uint32), (200_000, np.uint32)]
)
def test_ids_come_back_as_narrow_as_the_vocabulary_allows(vocab_size: int, dtype: type) -> None:
    chunks = [[0, 1, 2], [], [vocab_size - 1]]
    assert write_tokens(PATH, chunks, vocab_size, HASH) == 4
    tokens = open_tokens(PATH, vocab_size, HASH)
    assert tokens.tolist() == [0, 1, 2, vocab_size - 1]
    assert tokens.dtype == dtype
    assert PATH.stat().st_size == HEADER.size + 4 * np.dtype(dtype).itemsize


def test_no_ids_at_all_come_back_too() -> None:
    write_tokens(PATH, [], 300, HASH)
    assert len(open_tokens(PATH, 300, HASH)) == 0


def test_the_ids_are_mapped_and_cannot_be_changed() -> None:
    write_tokens(PATH, [[1, 2]], 300, HASH)
    tokens = open_tokens(PATH, 300, HASH)
    assert isinstance(tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 5


def test_a_file_cut_short_is_refused() -> None:
    write_tokens(PATH, [[1, 2, 3]], 300, HASH)
    whole = PATH.read_bytes()
    PATH.write_bytes(whole[:-1])
    with pytest.raises(KiaraError, match="is truncated: its header promises 3 tokens"):
        open_tokens(PATH, 300, HASH)
    PATH.write_bytes(whole[:40])
    with pytest.raises(KiaraError, match="is not a Kiara token file"):
        open_tokens(PATH, 300, HASH)


def test_a_writer_that_stops_halfway_leaves_no_file_that_passes_for_whole() -> None:
    def chunks() -> object:
        yield [1, 2, 3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tokens(PATH, chunks(), 300, HASH)  # type: ignore[arg-type]
    with pytest.raises(KiaraError, match="is truncated"):
        open_tokens(PATH, 300, HASH)


@pytest.mark.parametrize(("vocab_size", "tokenizer_hash"), [(300, "cd" * 32), (301, HASH)])
def test_the_ids_of_another_tokenizer_are_refused(vocab_size: int, tokenizer_hash: str) -> None:
    write_tokens(PATH, [[1]], 300, HASH)
    with pytest.raises(KiaraError, match="was made with another tokenizer"):
        open_tokens(PATH, vocab_size, tokenizer_hash)


def test_another_kind_of_file_is_refused() -> None:
    PATH.write_bytes(b"not tokens at all" * 10)
    with pytest.raises(KiaraError, match="is not a Kiara token file"):
        open_tokens(PATH, 300, HASH)
    with pytest.raises(KiaraError, match="cannot open the token file nowhere"):
        open_tokens(Path("nowhere.bin"), 300, HASH)


def test_a_file_of_a_later_format_is_refused() -> None:
    PATH.write_bytes(HEADER.pack(b"KIARATOK", 9, 2, 300, 0, bytes.fromhex(HASH)))
    with pytest.raises(KiaraError, match="has format version 9, this Kiara reads 1"):
        open_tokens(PATH, 300, HASH)


def test_an_id_outside_the_vocabulary_is_our_bug() -> None:
    with pytest.raises(AssertionError):
        write_tokens(PATH, [[300]], 300, HASH)
