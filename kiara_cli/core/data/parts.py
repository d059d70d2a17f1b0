"""The folder in which token files come about, unit by unit: what survives a kill, and what many processes share.

In: units of work. Out: for each its ids, training and held-out side, and a record written last; then, of all of them
in order, the token files. `.<name>-<key>.parts/` is named after the list of inputs and the settings, so whoever has
the same ones finds it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.data.encoding import Counts, Encoded, encode_batch, in_batches, in_order
from kiara_cli.core.data.places import Place
from kiara_cli.core.data.readers import read
from kiara_cli.core.data.shards import Stamp, Writer, dtype_for
from kiara_cli.core.data.slices import Reading, digest
from kiara_cli.core.data.splitting import Split
from kiara_cli.core.data.units import Unit
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError

SIDES = ("train", "val")
BLOCK = 1 << 22  # bytes copied at a time


@dataclass(frozen=True)
class Record:
    """What is known of a finished unit."""

    digests: tuple[str, ...]  # of the bytes of its slices
    train: Counts
    val: Counts
    skipped: int
    notices: tuple[Any, ...]  # as `Notices.state` returns them

    @classmethod
    def parse(cls, raw: bytes | None) -> Record | None:
        """Read a record; None for one that is not there or not whole."""
        try:
            values = json.loads(raw or b"")
            train, val = (Counts(**values[side]) for side in SIDES)
            return cls(tuple(values["digests"]), train, val, values["skipped"], tuple(values["notices"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None


@dataclass(frozen=True)
class Work:
    """All that decides what the ids of a unit are."""

    units: Sequence[Unit]
    split: Split
    tokenizer: Tokenizer
    reading: Reading
    threads: int

    def sides(self, unit: Unit, reading: Reading) -> Iterator[Any]:
        documents = read(unit.slices, reading)
        return ((document, True) for document in documents) if unit.held_out else self.split.sides(documents)


def encode_units(place: Place, work: Work, mine: Sequence[int], report: Callable[[int], None]) -> None:
    """Encode the units numbered `mine`, except those done before; report bytes done."""
    todo, done = [], 0
    for number in mine:
        unit = work.units[number]
        record, digests = (
            Record.parse(place.read(f"{number:05}.json")),
            tuple(digest(part, work.reading) for part in unit.slices),
        )
        if record is not None and record.digests == digests:
            done += unit.size
        else:
            todo.append((number, digests))
    report(done)

    def steps() -> Iterator[tuple[Any, Reading | None]]:
        for number, _ in todo:
            reading = work.reading.anew()
            for batch in in_batches(work.sides(work.units[number], reading)):
                yield batch, None
            yield None, reading

    def encode(step: tuple[Any, Reading | None]) -> tuple[Encoded | None, Reading | None]:
        batch, reading = step
        return (None if batch is None else encode_batch(batch, work.tokenizer)), reading

    with closing(in_order(encode, steps(), work.threads)) as results:
        for number, digests in todo:
            size = work.units[number].size

            def advance(read: int, before: int = done, size: int = size) -> None:
                report(before + min(read, size))

            _write_unit(place, number, digests, results, advance)
            done += size
            report(done)


def merge(
    place: Place, work: Work, folder: Path, stamp: Stamp, shard_tokens: int, report: Callable[[int], None]
) -> tuple[Counts, Counts, NDArray[np.int64]]:
    """Write the token files of both sides into a folder; return what they hold and how often each id occurs."""
    records = [record_of(place, work, number) for number in range(len(work.units))]
    totals = tuple(sum((getattr(record, side) for record in records), Counts()) for side in SIDES)
    used = np.zeros(work.tokenizer.size, dtype=np.int64)
    copied = 0
    for side, total in zip(SIDES, totals, strict=True):
        writer = Writer(folder, side, total.tokens, shard_tokens, stamp)
        try:
            for number, record in enumerate(records):
                for ids in _read_ids(place, f"{number:05}.{side}", getattr(record, side).tokens, work.tokenizer.size):
                    writer.write(ids)
                    used += np.bincount(ids, minlength=len(used))
                    report(copied := copied + ids.nbytes)
            writer.close()
        finally:
            writer.abandon()
    return totals[0], totals[1], used


def record_of(place: Place, work: Work, number: int) -> Record:
    """Return the record of a unit. Raises KiaraError if it is not done."""
    record = Record.parse(place.read(f"{number:05}.json"))
    if record is None:
        first = work.units[number].slices[0]
        raise KiaraError(
            f"unit {number} of {len(work.units)} is not tokenized yet ({first.input.address} and what follows)",
            "run each share before merging: --shard 0/n to --shard n-1/n, with the same paths and settings",
        )
    return record


def _write_unit(
    place: Place, number: int, digests: tuple[str, ...], results: Iterator[Any], report: Callable[[int], None]
) -> None:
    """Take a unit's batches up to its end and write its ids, then its record."""
    names = [f"{number:05}.{side}" for side in SIDES]
    paths = [place.scratch / f"{name}.{os.getpid()}" for name in names]
    counts, read_by = [Counts(), Counts()], Reading()
    with paths[0].open("wb") as train, paths[1].open("wb") as val:
        for encoded, reading in results:
            if encoded is None:
                read_by = reading
                break
            for side, file in enumerate((train, val)):
                file.write(encoded.ids[side].tobytes())
                counts[side] += encoded.counts[side]
            report(counts[0].bytes + counts[1].bytes)
    for path, name in zip(paths, names, strict=True):
        place.put(path, name)
    record = Record(digests, counts[0], counts[1], read_by.skipped, tuple(read_by.notices.state()))
    written = place.scratch / f"{number:05}.json.{os.getpid()}"
    written.write_text(json.dumps(asdict(record)), encoding="utf-8")
    place.put(written, f"{number:05}.json")


def _read_ids(place: Place, name: str, count: int, vocab_size: int) -> Iterator[NDArray[Any]]:
    dtype, seen = dtype_for(vocab_size), 0
    with place.open(name) as file:
        while raw := file.read(BLOCK):
            seen += len(raw) // dtype.itemsize
            yield np.frombuffer(raw, dtype=dtype)
    if seen != count:
        raise KiaraError(f"{place.address}/{name} holds {seen:,} of {count:,} tokens", "delete it and run again")
