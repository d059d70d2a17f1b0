"""The stage that `kiara tokenize` and `kiara train` both call: documents to a folder of token files.

In: the data and tokenizer sections of a config. Out: data/<name>-<hash8>/ with tokenizer.json, train*.bin, val*.bin
and meta.json. The hash covers the source's bytes, the tokenizer, the split, the field and the format, so a folder
never goes stale: other input is another folder. Memory stays the same whatever the size of the source.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kiara_cli.config.folders import cache_folder
from kiara_cli.config.schema import Config, DataConfig, TokenizerConfig
from kiara_cli.core.data import folders, splitting
from kiara_cli.core.data.corpora import resolve
from kiara_cli.core.data.encoding import cores
from kiara_cli.core.data.folders import FORMAT, Meta, Prepared, dataset_name, open_folder
from kiara_cli.core.data.parts import Work, encode_units, merge, record_of
from kiara_cli.core.data.places import Place, copy_out
from kiara_cli.core.data.readers import Reading, Slice, digest, read
from kiara_cli.core.data.shards import Stamp
from kiara_cli.core.data.splitting import Split
from kiara_cli.core.data.units import Share, units_of
from kiara_cli.core.tokenizer import files
from kiara_cli.core.tokenizer.protocol import Tokenizer, fingerprint
from kiara_cli.core.tokenizer.report import count_unused
from kiara_cli.errors import KiaraError


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

    threads: int = dataclasses.field(default_factory=cores)
    cache: Path = Path(".cache")
    skip_bad: bool = False
    stdin: Path | None = None  # a file that holds what came through a pipe


def means_of(config: Config, skip_bad: bool = False) -> Means:
    """Return what a preparation on this machine may use."""
    threads = config.runtime.threads
    return Means(threads if isinstance(threads, int) else cores(), cache_folder() / "corpora", skip_bad)


def prepare(
    data: DataConfig,
    tokenizing: TokenizerConfig,
    root: Path,
    tokenizer: Tokenizer | None = None,
    report: Report = lambda progress: None,
    means: Means | None = None,
    scratch: Path | None = None,
) -> Prepared:
    """Return the data folder for these settings under `root`, making it first where it is missing.

    A given tokenizer is used as it is; otherwise one is fitted on the training split. A source that is a data folder
    itself is opened. What is missing is made in `scratch`, if that is given. Raises KiaraError.
    """
    if (folder := folders.fetched(data.source, root, scratch)) is not None:
        return folders.checked(open_folder(folder), tokenizing, tokenizer)
    source = Source(data, means or Means(), report)
    total = source.digest(tokenizing, tokenizer)
    folder = root / f"{dataset_name(data)}-{total[:8]}"
    if (folder / "meta.json").is_file():
        return open_folder(folder)
    if folder.exists():
        raise KiaraError(f"{folder} is not a whole data folder", "delete it and try again")
    root = scratch or root
    folder = root / folder.name
    split = source.split()
    if tokenizer is None:
        report(Preparing("fitting the tokenizer", 0, min(tokenizing.fit_bytes, source.size)))
        tokenizer = source.fit(tokenizing, split)
    work = source.work(split, tokenizer)
    place = Place(str(root / source.parts_name(work)))
    try:
        encode_units(place, work, range(len(work.units)), source.reporter("tokenizing"))
        if _digests(place, work) != source.digests:
            raise KiaraError(f"{data.source} was changed while it was read", "run the same again")
        _assemble(folder, place, source, work, total)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt) or not list(place.scratch.glob("*.json")):
            place.remove()  # nothing worth going on from, or not without a change to the source
        raise
    place.remove()
    return dataclasses.replace(_published(folder, data), made=True)


def prepare_share(
    data: DataConfig,
    root: Path,
    tokenizer: Tokenizer,
    share: Share,
    report: Report = lambda progress: None,
    means: Means | None = None,
) -> tuple[str, int, int]:
    """Do one share of the work; return where it lies, its number of units and that of all. Raises KiaraError."""
    source = Source(data, means or Means(), report)
    work = source.work(source.split(), tokenizer)
    place = Place(f"{data.output or root}/{source.parts_name(work)}")
    mine = range(share.index, len(work.units), share.of)
    try:
        encode_units(place, work, mine, source.reporter("tokenizing", sum(work.units[n].size for n in mine)))
    finally:
        place.close()
    return place.address, len(mine), len(work.units)


def merge_shares(
    data: DataConfig,
    root: Path,
    tokenizer: Tokenizer,
    report: Report = lambda progress: None,
    means: Means | None = None,
) -> Prepared:
    """Put the shares that were done together: the folder that one run would have made. Raises KiaraError."""
    source = Source(data, means or Means(), report)
    work = source.work(source.split(), tokenizer)
    place = Place(f"{data.output or root}/{source.parts_name(work)}")
    try:
        total = source.combine(None, tokenizer, _digests(place, work))
        folder = root / f"{dataset_name(data)}-{total[:8]}"
        if not (folder / "meta.json").is_file():
            _assemble(folder, place, source, work, total)
    finally:
        place.close()
    place.remove()
    return dataclasses.replace(_published(folder, data), made=True)


def reopen(
    data: DataConfig,
    tokenizing: TokenizerConfig,
    root: Path,
    tokenizer: Tokenizer,
    recorded: Mapping[str, Any],
    report: Report = lambda progress: None,
    means: Means | None = None,
) -> Prepared:
    """Return the data folder that a checkpoint was trained on, made again from its source if it is gone.

    `recorded` is the checkpoint's `data`: the folder and its hash. Raises KiaraError if the source has changed, or
    if neither source nor folder is there.
    """
    remedy = "restore it, or measure another text with: kiara eval --text FILE"
    folder = Path(recorded["folder"])
    try:
        if (given := folders.fetched(data.source, root)) is not None:
            found: dict[str, Tokenizer | None] = {open_folder(given).meta.hash: None}
        else:
            source = Source(data, means or Means(), report, fetch=False)
            found = {source.digest(tokenizing, used): used for used in (tokenizer, None)}
    except KiaraError as error:
        if (folder / "meta.json").is_file() and (prepared := open_folder(folder)).meta.hash == recorded["hash"]:
            return prepared
        raise KiaraError(f"neither {folder} nor its source {data.source} is there", remedy) from error
    if recorded["hash"] not in found:
        raise KiaraError(f"the data at {data.source} has changed since the checkpoint was made", remedy)
    return prepare(data, tokenizing, root, found[recorded["hash"]], report, means)


class Source:
    """The inputs of a data section, and what follows from them alone."""

    def __init__(self, data: DataConfig, means: Means, report: Report, fetch: bool = True) -> None:
        def downloading(stage: str, done: int, total: int) -> None:
            report(Preparing(stage, done, total))

        self.data, self.means, self._report = data, means, report
        self.reading = Reading(data.field, means.skip_bad)
        self.units = units_of(resolve(data.source, data, means.cache, downloading, fetch, means.stdin))
        if data.val_source is not None:
            held_out = resolve(data.val_source, data, means.cache, downloading, fetch)
            self.units += units_of(held_out, held_out=True)

    @property
    def size(self) -> int:
        return sum(unit.size for unit in self.units)

    def documents(self) -> Iterator[Any]:
        """Yield all documents but those of a validation source."""
        slices = (part for unit in self.units if not unit.held_out for part in unit.slices)
        return read(slices, dataclasses.replace(self.reading, skipped=0))

    def split(self) -> Split:
        """Decide which documents are held out."""
        if self.data.val_source is None:
            return splitting.decide(self.documents(), self.data.val_fraction, self.data.source)
        if next(self.documents(), None) is None:
            raise KiaraError(f"{self.data.source} is empty", "give a file with some text in it, 1 KB or more")
        return Split()

    def fit(self, tokenizing: TokenizerConfig, split: Split) -> Tokenizer:
        """Make a tokenizer, fitted on the head of the training split where that kind is fitted."""
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
        slices, report, done = list(self._slices()), self.reporter("checking the source"), 0
        found: list[str] = []
        with ThreadPoolExecutor(self.means.threads) as pool:
            for part, value in zip(slices, pool.map(lambda part: digest(part, self.reading), slices), strict=True):
                found.append(value)
                report(done := done + part.range[1] - part.range[0])
        return found

    def combine(self, tokenizing: TokenizerConfig | None, tokenizer: Tokenizer | None, digests: Sequence[str]) -> str:
        """Hash all that decides what the folder will hold, given the hash of each slice."""
        made_by = fingerprint(tokenizer) if tokenizer else asdict(tokenizing or TokenizerConfig())
        slices = [(part, unit.held_out) for unit in self.units for part in unit.slices]
        content = [
            (part.input.kind, part.input.packing, part.index, part.of, held_out, value)
            for (part, held_out), value in zip(slices, digests, strict=True)
        ]
        return _hash([FORMAT, made_by, self._settings(), content])

    def parts_name(self, work: Work) -> str:
        """Name the folder of unfinished work after all that is known without reading the source."""
        slices = [(part.input.address, part.input.size, part.index, part.of) for part in self._slices()]
        key = _hash([FORMAT, fingerprint(work.tokenizer), asdict(work.split), self._settings(), slices])
        return f".{dataset_name(self.data)}-{key[:8]}.parts"

    def reporter(self, stage: str, total: int | None = None) -> Callable[[int], None]:
        whole = self.size if total is None else total
        return lambda done: self._report(Preparing(stage, done, whole))

    def _slices(self) -> Iterator[Slice]:
        return (part for unit in self.units for part in unit.slices)

    def _settings(self) -> list[Any]:
        data = self.data
        return [data.val_fraction if data.val_source is None else None, data.field, data.shard_tokens]

    def _head(self, texts: Iterable[str], limit: int) -> Iterator[str]:
        """Yield texts until about `limit` bytes have been seen."""
        report, left = self.reporter("fitting the tokenizer", min(limit, self.size)), limit
        for text in texts:
            yield text[:left]
            left -= len(text.encode())
            report(limit - max(0, left))
            if left <= 0:
                return


def _assemble(folder: Path, place: Place, source: Source, work: Work, total: str) -> None:
    """Write the folder under another name and rename it when it is whole."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    stamp = Stamp(work.tokenizer.size, fingerprint(work.tokenizer), total)
    try:
        files.save(work.tokenizer, partial / "tokenizer.json")
        train, val, used = merge(place, work, partial, stamp, source.data.shard_tokens, lambda done: None)
        if not val.documents and source.data.val_source is not None:
            raise KiaraError(f"{source.data.val_source} is empty", "give a file with some text in it")
        meta = Meta(
            name=dataset_name(source.data),
            hash=total,
            source=source.data.source,
            documents=1 if work.split.cut is not None else train.documents + val.documents,
            train_bytes=train.bytes,
            val_bytes=val.bytes,
            train_tokens=train.tokens,
            val_tokens=val.tokens,
            vocab_size=work.tokenizer.size,
            tokenizer_hash=stamp.tokenizer_hash,
            conversations=train.conversations > 0,
            unused_tokens=count_unused(work.tokenizer, used),
            skipped=sum(record_of(place, work, number).skipped for number in range(len(work.units))),
        )
        folders.write_meta(partial, meta)
        partial.rename(folder)
    except OSError:
        if (folder / "meta.json").is_file():  # another process has just made the same folder
            return
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _published(folder: Path, data: DataConfig) -> Prepared:
    """Open a new folder, copied to where the config wants it too."""
    if data.output is not None:
        copy_out(folder, f"{data.output.rstrip('/')}/{folder.name}")
    return open_folder(folder)


def _digests(place: Place, work: Work) -> list[str]:
    """Return the hashes of all slices as they were when they were tokenized. Raises KiaraError if some were not."""
    return [value for number in range(len(work.units)) for value in record_of(place, work, number).digests]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
