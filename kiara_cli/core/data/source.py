"""What data is made from: the inputs of a data section, and what follows from them alone.

In: the data section of a config. Out: documents, how they are split, a tokenizer fitted on them, the units of work,
and the hash of all that decides what the folder will hold.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from kiara_cli.config.folders import cache_folder
from kiara_cli.config.schema import Config, DataConfig, TokenizerConfig
from kiara_cli.core.data import splitting
from kiara_cli.core.data.corpora import resolve
from kiara_cli.core.data.documents import Document
from kiara_cli.core.data.folders import FORMAT, dataset_name
from kiara_cli.core.data.listing import BESIDE
from kiara_cli.core.data.mixture import paths_of
from kiara_cli.core.data.notices import Notices
from kiara_cli.core.data.parts import Work
from kiara_cli.core.data.pipes import Pipes
from kiara_cli.core.data.places import open_bytes
from kiara_cli.core.data.readers import empty, read
from kiara_cli.core.data.slices import Reading, Slice, digest
from kiara_cli.core.data.splitting import Split
from kiara_cli.core.data.units import Unit, units_of
from kiara_cli.core.runtime.threads import allowed_workers
from kiara_cli.core.tokenizer import files
from kiara_cli.core.tokenizer.pretrained import NAMES
from kiara_cli.core.tokenizer.protocol import Tokenizer, fingerprint
from kiara_cli.errors import KiaraError

READING = 1  # the version of how files are found, decoded and split; part of the hash


@dataclass(frozen=True)
class Preparing:
    """How far a preparation has come."""

    stage: str
    done_bytes: int
    total_bytes: int  # 0 where it is not known


Report = Callable[[Preparing], None]


@dataclass(frozen=True)
class Means:
    """What a preparation may use: threads, the folder of downloads; and whether to leave out what cannot be read."""

    threads: int = dataclasses.field(default_factory=allowed_workers)
    cache: Path = Path(".cache")
    skip_bad: bool = False
    stdin: BinaryIO | None = None  # what - stands for


def means_of(config: Config, skip_bad: bool = False) -> Means:
    """Return what a preparation on this machine may use."""
    threads = config.runtime.threads
    return Means(threads if isinstance(threads, int) else allowed_workers(), cache_folder() / "corpora", skip_bad)


class Source:
    """The inputs of a data section, and what follows from them alone."""

    def __init__(self, data: DataConfig, means: Means, report: Report, fetch: bool = True) -> None:
        def downloading(stage: str, done: int, total: int) -> None:
            report(Preparing(stage, done, total))

        self.data, self.means, self._report = data, means, report
        self.reading = Reading(data.field, means.skip_bad, data.encoding, data.prompt_field, data.reply_field)
        self.notices = Notices()  # of what was left out of the list of inputs
        self._pipes = Pipes(means.stdin)
        try:
            sides = [(source, False) for source in paths_of(data)]
            sides += [(data.val_source, True)] if data.val_source is not None else []
            self.units: list[Unit] = []
            for held_out in (False, True):
                inputs = [
                    found
                    for source, side in sides
                    if side == held_out
                    for found in resolve(source, data, means.cache, downloading, fetch, self._pipes, self.notices)
                ]
                self.units += units_of(inputs, held_out)
        except BaseException:
            self._pipes.close()
            raise

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *error: object) -> None:
        self._pipes.close()

    @property
    def size(self) -> int:
        return sum(unit.size for unit in self.units)

    def documents(self, reading: Reading | None = None) -> Iterator[Document]:
        """Yield all documents but those of a validation source."""
        slices = (part for unit in self.units if not unit.held_out for part in unit.slices)
        return read(slices, reading or self.reading.anew())

    def split(self) -> Split:
        """Decide what is held out. Raises KiaraError if there is nothing at all."""
        reading = self.reading.anew()
        documents = self.documents(reading)
        if (first := next(documents, None)) is None:
            raise empty(self.data.source, reading, self.notices)
        if self.data.val_source is not None:
            return Split()
        texts = [part.input.size for part in self._slices() if part.input.kind == "text"]  # a document each
        uneven = max(texts, default=0) > self.data.val_fraction * self.size
        return splitting.decide(chain([first], documents), self.data.val_fraction, self.data.source, uneven)

    def beside(self, tokenizing: TokenizerConfig) -> Tokenizer | None:
        """Return the tokenizer that made the ids of token files, which lies beside the first; None: there are none.

        Raises KiaraError if there is none beside them, and none is known by the name that the config gives.
        """
        of_ids = (part.input.address for part in self._slices() if part.input.kind == "datatrove")
        if tokenizing.kind in NAMES or (first := next(of_ids, None)) is None:
            return None
        folder = first.rpartition("/")[0] or "."
        try:
            with open_bytes(f"{folder}/{BESIDE}") as file:
                return files.parse(file.read(), f"{folder}/{BESIDE}")
        except KiaraError as error:
            raise KiaraError(
                f"{first} holds ids, and the tokenizer that made them is not known ({error.cause})",
                f"copy Kiara's {BESIDE} into {folder}, or name an encoding: tokenizer.kind=gpt2",
            ) from None

    def fit(self, tokenizing: TokenizerConfig, split: Split) -> Tokenizer:
        """Make a tokenizer, fitted on the head of the training split where that kind is fitted."""
        if (given := self.beside(tokenizing)) is not None:
            return given
        train = (document.text for document, held_out in split.sides(self.documents()) if not held_out)
        return files.fit(tokenizing, self._head(train, tokenizing.fit_bytes))

    def work(self, split: Split, tokenizer: Tokenizer) -> Work:
        return Work(self.units, split, tokenizer, self.reading, self.means.threads)

    def digest(self, tokenizing: TokenizerConfig, tokenizer: Tokenizer | None) -> str:
        """Hash all that decides what the folder will hold, reading all of the source."""
        return self.combine(tokenizing, tokenizer, self.digests)

    @cached_property
    def digests(self) -> list[str]:
        """The hash of each slice."""
        return self.hashed(list(self._slices()))

    def hashed(self, slices: Sequence[Slice]) -> list[str]:
        """Return the hash of each of these slices, reading them."""
        report, done = self.reporter("checking the source", sum(b - a for a, b in (part.range for part in slices))), 0
        found: list[str] = []
        with ThreadPoolExecutor(self.means.threads) as pool:
            for part, value in zip(slices, pool.map(lambda part: digest(part, self.reading), slices), strict=True):
                found.append(value)
                report(done := done + part.range[1] - part.range[0])
        return found

    def combine(self, tokenizing: TokenizerConfig | None, tokenizer: Tokenizer | None, digests: Sequence[str]) -> str:
        """Hash all that decides what the folder will hold, given the hash of each slice."""
        made_by = fingerprint(tokenizer) if tokenizer else asdict(tokenizing or TokenizerConfig())
        return _hash([FORMAT + READING, made_by, self._settings(), self._content(digests)])

    def text_hash(self, digests: Sequence[str]) -> str:
        """Hash the text and how it is split, given the hash of each slice: the same with any tokenizer."""
        share, field, _, *encoding = self._settings()
        return _hash(["text", FORMAT + READING, share, field, encoding, self._content(digests)])

    def _content(self, digests: Sequence[str]) -> list[Any]:
        slices = [(part, unit.held_out) for unit in self.units for part in unit.slices]
        return [
            (part.input.kind, part.input.packing, part.index, part.of, held_out, value)
            for (part, held_out), value in zip(slices, digests, strict=True)
        ]

    def parts_name(self, work: Work) -> str:
        """Name the folder of unfinished work after all that is known without reading the source."""
        slices = [(part.input.name, part.input.size, part.index, part.of) for part in self._slices()]
        key = _hash([FORMAT + READING, fingerprint(work.tokenizer), asdict(work.split), self._settings(), slices])
        return f".{dataset_name(self.data)}-{key[:8]}.parts"

    def reporter(self, stage: str, total: int | None = None) -> Callable[[int], None]:
        whole = self.size if total is None else total
        return lambda done: self._report(Preparing(stage, done, whole))

    def waiting(self) -> None:
        """Say that another process makes the same data."""
        self._report(Preparing("waiting for another process that prepares the same data", 0, 0))

    def _slices(self) -> Iterator[Slice]:
        return (part for unit in self.units for part in unit.slices)

    def _settings(self) -> list[Any]:
        data = self.data
        settings: list[Any] = [data.val_fraction if data.val_source is None else None, data.field, data.shard_tokens]
        settings += [] if data.encoding is None else [data.encoding]
        return settings if data.prompt_field is None else [*settings, [data.prompt_field, data.reply_field]]

    def _head(self, texts: Iterable[str], limit: int) -> Iterator[str]:
        """Yield texts until about `limit` bytes have been seen."""
        report, left = self.reporter("fitting the tokenizer", min(limit, self.size)), limit
        for text in texts:
            yield text[:left]
            left -= len(text.encode())
            report(limit - max(0, left))
            if left <= 0:
                return


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
