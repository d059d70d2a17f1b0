"""The stage that `kiara tokenize` and `kiara train` both call: documents to a folder of token files.

In: the data and tokenizer sections of a config. Out: data/<name>-<hash8>/ with tokenizer.json, train*.bin, val*.bin
and meta.json. The hash covers the source's bytes, the tokenizer, the split, the field and the format, so a folder
never goes stale: other input is another folder. Memory stays the same whatever the size of the source.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from kiara_cli.config.schema import DataConfig, TokenizerConfig
from kiara_cli.core.data import folders
from kiara_cli.core.data.claim import claimed
from kiara_cli.core.data.folders import Meta, Prepared, dataset_name, open_folder
from kiara_cli.core.data.mixture import own_sources
from kiara_cli.core.data.notices import Notices
from kiara_cli.core.data.parts import Work, encode_units, merge, record_of
from kiara_cli.core.data.places import Place, copy_out
from kiara_cli.core.data.shards import Stamp
from kiara_cli.core.data.source import Means, Report, Source
from kiara_cli.core.data.splitting import Split
from kiara_cli.core.tokenizer import files
from kiara_cli.core.tokenizer.protocol import Tokenizer, fingerprint
from kiara_cli.core.tokenizer.report import count_unused
from kiara_cli.errors import KiaraError

FAR = 2.0  # a held-out share so many times more or less than data.val_fraction is said

log = logging.getLogger("kiara.data")


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
    itself is opened. What is missing is made in `scratch`, if that is given. Of several processes that need the same
    folder one makes it and the others wait. Raises KiaraError.
    """
    data = own_sources(data)
    if (found := folders.fetched(data.source, root, scratch)) is not None:
        return folders.checked(open_folder(found), tokenizing, tokenizer)
    with Source(data, means or Means(), report) as source:
        tokenizer = tokenizer or source.beside(tokenizing)
        total = source.digest(tokenizing, tokenizer)
        name = f"{dataset_name(data)}-{total[:8]}"
        if (prepared := there(root / name, source)) is not None:
            return prepared
        folder, split = (scratch or root) / name, source.split()
        with claimed(folder.with_name(f".{dataset_name(data)}.lock"), source.waiting) as alone:
            if (prepared := there(folder, source)) is not None:
                return prepared
            _make(folder, source, split, tokenizing, tokenizer, total, alone)
        made = dataclasses.replace(published(folder, data), made=True)
        return told(made, source)


def there(folder: Path, source: Source) -> Prepared | None:
    """Open a folder that is there. Raises KiaraError if it is not whole."""
    if (folder / "meta.json").is_file():
        return told(open_folder(folder), source)
    if folder.exists():
        raise KiaraError(f"{folder} is not a whole data folder", "delete it and try again")
    return None


def told(prepared: Prepared, source: Source) -> Prepared:
    """Add what there is to say of the source."""
    return dataclasses.replace(prepared, notices=(*source.notices.lines(), *prepared.meta.notices))


def _make(
    folder: Path,
    source: Source,
    split: Split,
    tokenizing: TokenizerConfig,
    tokenizer: Tokenizer | None,
    total: str,
    alone: bool,
) -> None:
    """Make a data folder; where no lock keeps others away (not `alone`), in a place of this process's own."""
    if tokenizer is None:
        source.reporter("fitting the tokenizer", min(tokenizing.fit_bytes, source.size))(0)
        tokenizer = source.fit(tokenizing, split)
    work = source.work(split, tokenizer)
    place = Place(str(folder.with_name(source.parts_name(work) + ("" if alone else f".{uuid4().hex}"))))
    try:
        encode_units(place, work, range(len(work.units)), source.reporter("tokenizing"))
        if digests_of(place, work) != source.digests:
            raise KiaraError(f"{source.data.source} was changed while it was read", "run the same again")
        assemble(folder, place, source, work, total)
    except BaseException as error:
        if not (alone and isinstance(error, KeyboardInterrupt) and list(place.scratch.glob("*.json"))):
            place.remove()  # nothing worth going on from, or not without a change to the source
        raise
    place.remove()


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

    `recorded` is the checkpoint's `data`: the folder and its hash. That folder serves, too, where the source has
    grown, moved or gone since, which is said once. Raises KiaraError if neither it nor the same source is there.
    """
    data, remedy = own_sources(data), "restore it, or measure another text with: kiara eval --text FILE"
    folder = Path(recorded["folder"])
    prepared = recorded_folder(root, recorded)
    try:
        found = _hashes(data, tokenizing, root, tokenizer, report, means or Means())
    except KiaraError as error:
        if prepared is None:
            raise KiaraError(f"neither {folder} nor its source {data.source} is there", remedy) from error
        log.warning("%s: using %s, which was made of it", error.cause, prepared.folder)
        return prepared
    if recorded["hash"] in found:  # what was left out when the folder was made is left out when it is made again
        means = dataclasses.replace(means or Means(), skip_bad=True)
        return prepared or prepare(data, tokenizing, root, found[recorded["hash"]], report, means)
    if prepared is None:
        raise KiaraError(f"the data at {data.source} has changed since the checkpoint was made", remedy)
    log.warning(
        "%s has changed, or this version reads it otherwise: using %s, as the checkpoint did",
        data.source,
        prepared.folder,
    )
    return prepared


def recorded_folder(root: Path, recorded: Mapping[str, Any]) -> Prepared | None:
    """Open the data folder that a checkpoint recorded, where it was or under `root`; None if it is not there."""
    folder = Path(recorded["folder"])
    return _recorded(folder, recorded["hash"]) or _recorded(root / folder.name, recorded["hash"])


def _recorded(folder: Path, total: str) -> Prepared | None:
    """Open the folder that was recorded, if it is there, whole and the same."""
    if not (folder / "meta.json").is_file():
        return None
    prepared = open_folder(folder)
    return prepared if prepared.meta.hash == total else None


def _hashes(
    data: DataConfig, tokenizing: TokenizerConfig, root: Path, tokenizer: Tokenizer, report: Report, means: Means
) -> dict[str, Tokenizer | None]:
    """Return the hashes that a folder made of the source now may have: with this tokenizer, or one fitted on it."""
    if (given := folders.fetched(data.source, root)) is not None:
        return {open_folder(given).meta.hash: None}
    with Source(data, means, report, fetch=False) as source:
        return {source.digest(tokenizing, used): used for used in (tokenizer, None)}


def assemble(folder: Path, place: Place, source: Source, work: Work, total: str) -> None:
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
        records, notices = [record_of(place, work, number) for number in range(len(work.units))], Notices()
        for record in records:
            notices.merge(record.notices)
        _note_share(notices, source.data, train.bytes, val.bytes)
        meta = Meta(
            name=dataset_name(source.data),
            hash=total,
            source=source.data.source,
            documents=train.documents + val.documents,
            train_bytes=train.bytes,
            val_bytes=val.bytes,
            train_tokens=train.tokens,
            val_tokens=val.tokens,
            vocab_size=work.tokenizer.size,
            tokenizer_hash=stamp.tokenizer_hash,
            train_conversations=train.conversations,
            val_conversations=val.conversations,
            unused_tokens=count_unused(work.tokenizer, used),
            skipped=sum(record.skipped for record in records),
            notices=tuple(notices.lines()),
            train_pairs=train.pairs,
            val_pairs=val.pairs,
            text_hash=source.text_hash([value for record in records for value in record.digests]),
        )
        folders.write_meta(partial, meta)
        partial.rename(folder)
    except OSError:
        if (folder / "meta.json").is_file():  # another process has just made the same folder
            return
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _note_share(notices: Notices, data: DataConfig, train_bytes: int, val_bytes: int) -> None:
    """Note a held-out share that is far from the one asked for."""
    share = val_bytes / max(1, train_bytes + val_bytes)
    if data.val_source is None and not data.val_fraction / FAR <= share <= data.val_fraction * FAR:
        notices.add(f"held out for validation, and not data.val_fraction={data.val_fraction:g}", f"{share:.2g}")


def published(folder: Path, data: DataConfig) -> Prepared:
    """Open a new folder, copied to where the config wants it too."""
    if data.output is not None:
        copy_out(folder, f"{data.output.rstrip('/')}/{folder.name}")
    return open_folder(folder)


def digests_of(place: Place, work: Work) -> list[str]:
    """Return the hashes of all slices as they were when they were tokenized. Raises KiaraError if some were not."""
    return [value for number in range(len(work.units)) for value in record_of(place, work, number).digests]
