"""The stage that `kiara tokenize` and `kiara train` both call: documents to a folder of token files.

In: the data and tokenizer sections of a config. Out: data/<name>-<hash8>/ with tokenizer.json, train.bin, val.bin
and meta.json. The hash covers the source's text, the tokenizer, the split and the format, so a folder never goes
stale: other input is another folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from kiara_cli.config.schema import DataConfig, TokenizerConfig
from kiara_cli.core.data import shards
from kiara_cli.core.data.corpora import CORPORA
from kiara_cli.core.data.documents import Document, read_documents
from kiara_cli.core.tokenizer import files
from kiara_cli.core.tokenizer.chat_format import encode_conversation
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, Tokenizer, fingerprint
from kiara_cli.errors import KiaraError

FORMAT = 1  # of the folder; part of its hash


@dataclass(frozen=True)
class Meta:
    """meta.json: what a data folder holds. Bytes are of UTF-8 text, tokens include one mark per document."""

    name: str
    hash: str  # SHA-256 of all that the folder was made from
    source: str
    documents: int
    train_bytes: int
    val_bytes: int
    train_tokens: int
    val_tokens: int
    vocab_size: int
    tokenizer_hash: str
    conversations: bool  # whether documents are conversations, whose replies alone may be the targets

    @property
    def bytes_per_token(self) -> float:
        tokens = self.train_tokens + self.val_tokens - self.documents
        return (self.train_bytes + self.val_bytes) / max(1, tokens)


@dataclass(frozen=True)
class Prepared:
    """A data folder, opened: its tokenizer and both splits as memory-mapped ids, (n,)."""

    folder: Path
    meta: Meta
    tokenizer: Tokenizer
    train: shards.Tokens
    val: shards.Tokens


@dataclass(frozen=True)
class Progress:
    """How far a preparation has come."""

    stage: str
    done_bytes: int
    total_bytes: int


def prepare(
    data: DataConfig,
    tokenizing: TokenizerConfig,
    root: Path,
    tokenizer: Tokenizer | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Prepared:
    """Return the data folder for these settings under `root`, making it first where it is missing.

    A given tokenizer is used as it is; otherwise one is fitted on the training split. Raises KiaraError.
    """
    source = _Source(data)
    digest = _digest(source, tokenizing, tokenizer)
    name = dataset_name(data)
    folder = root / f"{name}-{digest[:8]}"
    if not (folder / "meta.json").is_file():
        documents, held_out = source.documents, source.held_out
        train, val = (documents, held_out) if held_out else split(documents, data.val_fraction)
        if tokenizer is None:
            report(Progress("fitting the tokenizer", 0, tokenizing.fit_bytes))
            tokenizer = files.fit(tokenizing, _head(train, tokenizing.fit_bytes))
        count = len({document.origin for document in train + val})
        _write(folder, (name, digest, data.source, count), train, val, tokenizer, report)
    return open_folder(folder)


def open_folder(folder: Path) -> Prepared:
    """Open a data folder. Raises KiaraError if it is damaged."""
    remedy = "delete the folder and tokenize again"
    try:
        values = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        meta = Meta(**{item.name: values[item.name] for item in fields(Meta)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KiaraError(f"{folder} is not a whole data folder ({error!r})", remedy) from None
    tokenizer = files.load(folder / "tokenizer.json")
    if fingerprint(tokenizer) != meta.tokenizer_hash:
        raise KiaraError(f"the tokenizer in {folder} was changed after its tokens were made", remedy)
    train, val = (
        shards.open_tokens(folder / f"{part}.bin", tokenizer.size, meta.tokenizer_hash) for part in ("train", "val")
    )
    return Prepared(folder, meta, tokenizer, train, val)


def dataset_name(data: DataConfig) -> str:
    """Name a data set after its source: `texts/My Novel.txt` becomes My_Novel."""
    if data.name is None and any(mark in data.source for mark in "*?["):
        stem = Path(data.source.split("*")[0].split("?")[0].split("[")[0]).name
    else:
        path = Path(data.name or data.source).expanduser()
        stem = path.resolve().name if path.is_dir() else path.stem if data.name is None else path.name
    return re.sub(r"[^\w.-]+", "_", stem).strip("._-") or "data"


def split(documents: list[Document], fraction: float) -> tuple[list[Document], list[Document]]:
    """Divide documents into training and validation, the same way each time.

    A single document is cut by position: the last `fraction` of its characters is held out. Of several, those
    are held out whole whose text's hash falls below `fraction`; at least one is.
    """
    if len(documents) == 1:
        text, origin = documents[0].text, documents[0].origin
        cut = min(len(text) - 1, int(len(text) * (1 - fraction)))
        return [Document(origin, text[:cut])], [Document(origin, text[cut:])]
    draws = [int(hashlib.sha256(document.text.encode()).hexdigest()[:16], 16) / 2**64 for document in documents]
    limit = max(fraction, min(draws) * 1.0000001)
    limit = min(limit, max(draws))  # at least one stays for training
    train = [document for document, draw in zip(documents, draws, strict=True) if draw >= limit]
    val = [document for document, draw in zip(documents, draws, strict=True) if draw < limit]
    if not val:
        raise KiaraError(
            "all documents hold the same text, none can be held out", "give data.val_source, or one document"
        )
    return train, val


def encode_documents(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Yield the ids of each document; it opens with the end-of-text mark."""
    mark = tokenizer.specials[END_OF_TEXT]
    for document in documents:
        if document.messages:
            yield encode_conversation(document.messages, tokenizer)[0]
        else:
            yield [mark, *tokenizer.encode(document.text)]


def reopen(
    data: DataConfig,
    tokenizing: TokenizerConfig,
    root: Path,
    tokenizer: Tokenizer,
    recorded: Mapping[str, Any],
    report: Callable[[Progress], None] = lambda progress: None,
) -> Prepared:
    """Return the data folder that a checkpoint was trained on, made again from its source if it is gone.

    `recorded` is the checkpoint's `data`: the folder and its hash. Raises KiaraError if the source has changed, or
    if neither source nor folder is there.
    """
    remedy = "restore it, or measure another text with: kiara eval --text FILE"
    folder = Path(recorded["folder"])
    try:
        source = _Source(data)
    except KiaraError as error:
        if (folder / "meta.json").is_file() and (prepared := open_folder(folder)).meta.hash == recorded["hash"]:
            return prepared
        raise KiaraError(f"neither {folder} nor its source {data.source} is there", remedy) from error
    for given in (None, tokenizer):
        if _digest(source, tokenizing, given) == recorded["hash"]:
            return prepare(data, tokenizing, root, given, report)
    raise KiaraError(f"the data at {data.source} has changed since the checkpoint was made", remedy)


def _write(
    folder: Path,
    identity: tuple[str, str, str, int],
    train: list[Document],
    val: list[Document],
    tokenizer: Tokenizer,
    report: Callable[[Progress], None],
) -> None:
    """Write the folder under another name and rename it when it is whole."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    sizes = {"train": _size(train), "val": _size(val)}
    total, done = sum(sizes.values()), 0

    def counted(documents: list[Document]) -> Iterator[list[int]]:
        nonlocal done
        for document, ids in zip(documents, encode_documents(documents, tokenizer), strict=True):
            done += len(document.text.encode())
            report(Progress("tokenizing", done, total))
            yield ids

    try:
        files.save(tokenizer, partial / "tokenizer.json")
        tokenizer_hash = fingerprint(tokenizer)
        counts = {
            part: shards.write_tokens(partial / f"{part}.bin", counted(documents), tokenizer.size, tokenizer_hash)
            for part, documents in (("train", train), ("val", val))
        }
        meta = Meta(
            *identity,
            sizes["train"],
            sizes["val"],
            counts["train"],
            counts["val"],
            tokenizer.size,
            tokenizer_hash,
            any(document.messages for document in train),
        )
        (partial / "meta.json").write_text(json.dumps(asdict(meta), indent=2) + "\n", encoding="utf-8")
        partial.rename(folder)
    except OSError:
        if (folder / "meta.json").is_file():  # another process has just made the same folder
            return
        if folder.exists():
            raise KiaraError(f"{folder} is not a whole data folder", "delete it and try again") from None
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Source:
    """The documents of a data section, and what tells them from any others.

    A corpus by name knows that without being written out; files are read.
    """

    def __init__(self, data: DataConfig) -> None:
        self.data = data
        identity = [self._identity(data.source), self._identity(data.val_source) if data.val_source else ""]
        self.identity = f"{identity} {data.val_fraction if data.val_source is None else ''}"

    @cached_property
    def documents(self) -> list[Document]:
        return self._read(self.data.source)

    @cached_property
    def held_out(self) -> list[Document]:
        return self._read(self.data.val_source) if self.data.val_source else []

    def _read(self, source: str) -> list[Document]:
        return list(CORPORA[source].documents(self.data)) if source in CORPORA else read_documents(source)

    def _identity(self, source: str) -> str:
        if source in CORPORA:
            return CORPORA[source].identity(self.data)
        documents = self.documents if source == self.data.source else self.held_out
        digest = hashlib.sha256()
        for document in documents:
            said = json.dumps(document.messages) if document.messages else document.text
            digest.update(hashlib.sha256(said.encode("utf-8", errors="surrogatepass")).digest())
        return digest.hexdigest()


def _digest(source: _Source, tokenizing: TokenizerConfig, tokenizer: Tokenizer | None) -> str:
    """Hash all that decides what the folder will hold."""
    made_by = fingerprint(tokenizer) if tokenizer else json.dumps(asdict(tokenizing), sort_keys=True)
    return hashlib.sha256(f"{FORMAT} {made_by} {source.identity}".encode()).hexdigest()


def _head(documents: list[Document], limit: int) -> Iterator[str]:
    """Yield texts until about `limit` bytes have been seen."""
    for document in documents:
        yield document.text[:limit]
        limit -= len(document.text.encode())
        if limit <= 0:
            return


def _size(documents: list[Document]) -> int:
    return sum(len(document.text.encode()) for document in documents)
