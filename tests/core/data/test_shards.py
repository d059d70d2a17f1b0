"""A token file says what its numbers mean, and one that lies is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.data.shards import HEADER, Shards, Stamp, Writer, open_split, open_tokens
from kiara_cli.errors import KiaraError

STAMP = Stamp(300, "ab" * 32, "cd" * 32)
PATH = Path("train.bin")


def write(ids: list[int], stamp: Stamp = STAMP, shard_tokens: int = 10**9) -> None:
    writer = Writer(Path(), "train", len(ids), shard_tokens, stamp)
    writer.write(np.array(ids, dtype=np.uint32))
    writer.close()


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(300, np.uint16), (2**16, np.uint16), (2**16 + 1, np.uint32), (200_000, np.uint32)]
)
def test_ids_come_back_as_narrow_as_the_vocabulary_allows(vocab_size: int, dtype: type) -> None:
    stamp = Stamp(vocab_size, "ab" * 32, "cd" * 32)
    write([0, 1, 2, vocab_size - 1], stamp)
    tokens = open_tokens(PATH, stamp)
    assert tokens.tolist() == [0, 1, 2, vocab_size - 1]
    assert tokens.dtype == dtype
    assert PATH.stat().st_size == HEADER.size + 4 * np.dtype(dtype).itemsize


def test_no_ids_at_all_come_back_too() -> None:
    write([])
    assert len(open_split(Path(), "train", STAMP, 0)) == 0


def test_the_ids_are_mapped_and_cannot_be_changed() -> None:
    write([1, 2])
    tokens = open_tokens(PATH, STAMP)
    assert isinstance(tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 5


@given(st.lists(st.integers(0, 299), min_size=1, max_size=40), st.integers(1, 15), st.data())
def test_many_files_are_read_as_one(ids: list[int], shard_tokens: int, data: Any) -> None:
    for old in Path().glob("train*.bin"):
        old.unlink()
    write(ids, shard_tokens=shard_tokens)
    assert len(list(Path().glob("train*.bin"))) == -(-len(ids) // shard_tokens)
    tokens = open_split(Path(), "train", STAMP, len(ids))
    assert isinstance(tokens, Shards) == (len(ids) > shard_tokens)
    plain = np.array(ids, dtype=np.uint16)
    assert len(tokens) == len(ids)
    assert tokens.tolist() == list(tokens) == ids
    start, stop = data.draw(st.integers(-50, 50)), data.draw(st.integers(-50, 50))
    assert tokens[start:stop].tolist() == ids[start:stop]
    assert tokens[::3].tolist() == ids[::3]
    places = data.draw(st.lists(st.integers(-len(ids), len(ids) - 1), min_size=2, max_size=8))
    grid = np.array([places, places[::-1]])
    assert np.array_equal(tokens[grid], plain[grid])
    assert int(tokens[places[0]]) == ids[places[0]]
    assert tokens[start:stop].dtype == plain.dtype


def test_a_file_that_is_missing_among_many_is_noticed() -> None:
    write(list(range(10)), shard_tokens=4)
    Path("train-00001.bin").unlink()
    with pytest.raises(KiaraError, match="holds 6 of the 10 tokens"):
        open_split(Path(), "train", STAMP, 10)


def test_a_file_cut_short_is_refused() -> None:
    write([1, 2, 3])
    whole = PATH.read_bytes()
    for length in (len(whole) - 1, 60):
        PATH.write_bytes(whole[:length])
        with pytest.raises(KiaraError, match="is truncated: its header promises"):
            open_tokens(PATH, STAMP)
    PATH.write_bytes(whole[:10])
    with pytest.raises(KiaraError, match="is not a Kiara token file"):
        open_tokens(PATH, STAMP)


def test_a_writer_that_stops_halfway_leaves_no_file_that_passes_for_whole() -> None:
    writer = Writer(Path(), "train", 3, 10, STAMP)
    writer.write(np.array([1, 2, 3]))
    writer.abandon()
    with pytest.raises(KiaraError, match="is truncated"):
        open_tokens(PATH, STAMP)


def test_an_id_beyond_the_vocabulary_is_found() -> None:
    write([1, 2, 3])
    with PATH.open("r+b") as file:
        file.seek(HEADER.size + 2)
        file.write((9999).to_bytes(2, "little"))
    with pytest.raises(KiaraError, match="train.bin is damaged: it holds the id 9,999 of 300"):
        open_tokens(PATH, STAMP)


@pytest.mark.parametrize("stamp", [Stamp(300, "ef" * 32, "cd" * 32), Stamp(301, "ab" * 32, "cd" * 32)])
def test_the_ids_of_another_tokenizer_are_refused(stamp: Stamp) -> None:
    write([1])
    with pytest.raises(KiaraError, match="was made with another tokenizer"):
        open_tokens(PATH, stamp)


def test_the_ids_of_other_data_are_refused() -> None:
    write([1])
    with pytest.raises(KiaraError, match="was made of other data"):
        open_tokens(PATH, Stamp(300, "ab" * 32, "ef" * 32))


def test_another_kind_of_file_is_refused() -> None:
    PATH.write_bytes(b"not tokens at all" * 10)
    with pytest.raises(KiaraError, match="is not a Kiara token file"):
        open_tokens(PATH, STAMP)
    with pytest.raises(KiaraError, match="cannot open the token file nowhere"):
        open_tokens(Path("nowhere.bin"), STAMP)


def test_a_file_of_another_format_is_refused() -> None:
    write([1])
    raw = PATH.read_bytes()
    PATH.write_bytes(raw[:8] + (3).to_bytes(4, "little") + raw[12:])
    with pytest.raises(KiaraError, match="has format version 3, this Kiara reads up to 2"):
        open_tokens(PATH, STAMP)


def test_writing_an_id_outside_the_vocabulary_is_our_bug() -> None:
    writer = Writer(Path(), "train", 1, 10, STAMP)
    with pytest.raises(AssertionError):
        writer.write(np.array([300]))
    writer.abandon()
