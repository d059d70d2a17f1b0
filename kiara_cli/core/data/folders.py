"""data/<name>-<hash8>/: the one module that opens such a folder and knows what stands in its meta.json.

In: the path or address of a folder. Out: its tokenizer and both splits, checked against each other.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from kiara_cli.config.folders import as_path
from kiara_cli.config.schema import DataConfig, TokenizerConfig
from kiara_cli.core.data import shards
from kiara_cli.core.data.inputs import STDIN
from kiara_cli.core.data.places import copy_in, is_address, open_bytes
from kiara_cli.core.data.segments import count_conversations
from kiara_cli.core.tokenizer import files
from kiara_cli.core.tokenizer.protocol import Tokenizer, fingerprint
from kiara_cli.errors import KiaraError

FORMAT = 2  # of the folder; part of its hash
NAME_BYTES = (
    100  # of the name of a data set; a hash and an ending are added to it, and 255 are what a folder may have
)


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
    train_conversations: int  # of the documents
    val_conversations: int
    unused_tokens: int  # ids with a text that occur in neither split; 0 where an earlier version did not count
    skipped: int  # lines, rows and files that could not be read and were left out
    notices: tuple[str, ...] = ()  # what else there is to say of what was read
    train_pairs: int = 0  # of conversations: one that is preferred, then the other
    val_pairs: int = 0
    text_hash: str = ""  # SHA-256 of the text and its split, whatever the tokenizer; earlier versions noted none

    @property
    def conversations(self) -> int:
        return self.train_conversations + self.val_conversations

    @property
    def bytes_per_token(self) -> float:
        tokens = self.train_tokens + self.val_tokens - self.documents
        return (self.train_bytes + self.val_bytes) / max(1, tokens)


NOT_NOTED: dict[str, Any] = {  # by all earlier versions → what stands for it
    "train_conversations": 0, "val_conversations": 0, "train_pairs": 0, "val_pairs": 0,
    "unused_tokens": 0, "skipped": 0, "notices": (), "text_hash": "",
}  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """A data folder, opened: its tokenizer and both splits as memory-mapped ids, (n,)."""

    folder: Path
    meta: Meta
    tokenizer: Tokenizer
    train: shards.Tokens
    val: shards.Tokens
    made: bool = False  # just now
    notices: tuple[str, ...] = ()  # what was left out of the source, and how it was read


def open_folder(folder: Path) -> Prepared:
    """Open a data folder. Raises KiaraError if it is damaged."""
    remedy = "delete the folder and tokenize again"
    try:
        values = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        counted = "train_conversations" in values  # earlier versions noted only whether there are any
        values = NOT_NOTED | values
        values["notices"] = tuple(values["notices"])
        meta = Meta(**{item.name: values[item.name] for item in fields(Meta)})
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise KiaraError(f"{folder} is not a whole data folder ({error!r})", remedy) from None
    tokenizer = files.load(folder / "tokenizer.json")
    if fingerprint(tokenizer) != meta.tokenizer_hash:
        raise KiaraError(f"the tokenizer in {folder} was changed after its tokens were made", remedy)
    stamp = shards.Stamp(tokenizer.size, meta.tokenizer_hash, meta.hash)
    train = shards.open_split(folder, "train", stamp, meta.train_tokens)
    val = shards.open_split(folder, "val", stamp, meta.val_tokens)
    if not counted and values.get("conversations"):
        found = [count_conversations(split, tokenizer.specials) for split in (train, val)]
        meta = replace(meta, train_conversations=found[0], val_conversations=found[1])
    return Prepared(folder, meta, tokenizer, train, val)


def write_meta(folder: Path, meta: Meta) -> None:
    """Write meta.json, the last file of a folder."""
    (folder / "meta.json").write_text(json.dumps(asdict(meta), indent=2) + "\n", encoding="utf-8")


def fetched(source: str, root: Path, scratch: Path | None = None) -> Path | None:
    """Return the data folder that a source is, copied under `root` (or `scratch`) from an address; None if none."""
    if not is_address(source):
        folder = Path(as_path(source))
        return folder if os.path.isfile(folder / "meta.json") else None
    address = source.rstrip("/")
    try:
        with open_bytes(f"{address}/meta.json"):
            pass
    except KiaraError:
        return None
    folder = root / address.rsplit("/", 1)[-1]
    if not folder.exists():
        folder = (scratch or root) / folder.name
        copy_in(address, folder)
    return folder


def checked(prepared: Prepared, tokenizing: TokenizerConfig, tokenizer: Tokenizer | None) -> Prepared:
    """Return a folder given as source. Raises KiaraError if another tokenizer is wanted than it was made with."""
    kind = prepared.tokenizer.kind
    if tokenizer is not None and fingerprint(tokenizer) != prepared.meta.tokenizer_hash:
        raise KiaraError(
            f"{prepared.folder} was made with another tokenizer than the one to use",
            "tokenize the text again with --tokenizer, or start a new model",
        )
    if tokenizer is None and tokenizing.kind != kind:
        raise KiaraError(
            f"{prepared.folder} was made with tokenizer.kind={kind}, the config says {tokenizing.kind}",
            f"write tokenizer.kind={kind}",
        )
    return prepared


def dataset_name(data: DataConfig) -> str:
    """Name a data set after its source: `texts/My Novel.txt` becomes My_Novel."""
    first = data.source
    if first == STDIN and data.name is None:
        return "stdin"
    if data.name is not None:
        stem = Path(data.name).name
    elif os.path.isdir(as_path(first)):
        stem = Path(as_path(first)).resolve().name
    else:
        before = first if os.path.exists(as_path(first)) else first.split("*")[0].split("?")[0].split("[")[0]
        stem = Path(before).name
        stem = stem if before != first else Path(stem.removesuffix(".gz").removesuffix(".zst")).stem
    stem += f"-and-{len(data.sources)}-more" if data.sources and data.name is None else ""
    name = re.sub(r"[^\w.-]+", "_", stem)
    return name.encode("utf-8", "ignore")[:NAME_BYTES].decode("utf-8", "ignore").strip("._-") or "data"
