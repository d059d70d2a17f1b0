"""The ids to measure a model on: a split of the data it was trained on, or a text of its own.

In: an opened checkpoint. Out: token ids, and what the model makes of them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from kiara_cli.core.data.encoding import bytes_of, encode_documents
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.data.inputs import STDIN
from kiara_cli.core.data.pairs import preferred
from kiara_cli.core.data.prepare import recorded_folder, reopen
from kiara_cli.core.data.readers import read_documents
from kiara_cli.core.data.shards import Tokens
from kiara_cli.core.data.slices import Reading
from kiara_cli.core.data.source import Report, means_of
from kiara_cli.core.eval.lengths import byte_lengths
from kiara_cli.core.eval.metrics import Metrics, Watch, evaluate
from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.parallel import ALONE, World
from kiara_cli.errors import KiaraError

log = logging.getLogger("kiara.eval")

HELD_OUT = 10  # of a text that is calibrated on too, one part in so many is measured on
Split = Literal["val", "train"]


@dataclass(frozen=True)
class HeldOut:
    """Where to measure: a split of the model's own data, found under `root`, or a text."""

    root: Path
    split: Split = "val"
    text: Path | None = None
    skip_bad: bool = False  # leave out what cannot be read
    report: Report = lambda progress: None  # told how far the data is
    stdin: BinaryIO | None = None  # what the text - is read from

    @property
    def name(self) -> str:
        return self.split if self.text is None else "stdin" if self.text == Path(STDIN) else str(self.text)


@dataclass(frozen=True)
class Held:
    """Ids to measure on, and how many bytes the text had that they were made of."""

    tokens: Tokens
    bytes: int | None = None  # None: not known


def held_of(opened: Opened, where: HeldOut) -> Held:
    """Return what to measure on. Raises KiaraError if there is none."""
    if where.text is not None:
        return encoded(opened, where)
    prepared = own_data(opened, where)
    meta = prepared.meta
    if meta.train_pairs:  # of which the preferred replies are measured
        tokens = prepared.val if where.split == "val" else prepared.train
        return Held(preferred(tokens, prepared.tokenizer.specials))
    if where.split == "val":
        return Held(prepared.val, meta.val_bytes)
    return Held(prepared.train, meta.train_bytes)


def ids_of(opened: Opened, where: HeldOut) -> Tokens:
    """Return the ids to measure on. Raises KiaraError if there are none."""
    return held_of(opened, where).tokens


def ids_to_calibrate(opened: Opened, where: HeldOut) -> tuple[Tokens, Held]:
    """Return ids to calibrate on and others to measure on. Raises KiaraError if there are none."""
    if where.text is not None:
        ids = encoded(opened, where).tokens
        cut = len(ids) - len(ids) // HELD_OUT
        return ids[:cut], Held(ids[cut:])
    prepared = own_data(opened, where)
    return prepared.train, Held(prepared.val, prepared.meta.val_bytes)


def encoded(opened: Opened, where: HeldOut) -> Held:
    """Return the ids of a text, each document of which opens with the end-of-text mark."""
    data = opened.config.data
    reading = Reading(data.field, where.skip_bad, data.encoding, data.prompt_field, data.reply_field)
    documents = read_documents(str(where.text), reading, where.stdin)
    for notice in reading.notices.lines():
        log.warning(notice)
    ids = np.concatenate(list(encode_documents(documents, opened.tokenizer)))
    size = sum(
        len(one.text.encode()) if one.ids is None else bytes_of(one.ids, opened.tokenizer) for one in documents
    )
    return Held(ids, size)


def own_data(opened: Opened, where: HeldOut) -> Prepared:
    """Return the data that a model was trained on. Raises KiaraError."""
    config, recorded = opened.config, opened.checkpoint.data
    if not recorded.get("folder"):
        raise KiaraError(f"{opened.checkpoint.path} was imported and has no text of its own", "give --text FILE")
    means = means_of(config, where.skip_bad)
    return reopen(config.data, config.tokenizer, where.root, opened.tokenizer, recorded, where.report, means)


def training_split(opened: Opened, root: Path) -> Tokens | None:
    """Return the ids that a model was trained on; None where its data folder is not there, or never was."""
    recorded = opened.checkpoint.data
    prepared = recorded_folder(root, recorded) if recorded.get("folder") else None
    return prepared.train if prepared is not None else None


def measure(
    opened: Opened,
    held: Held,
    model: Transformer | None = None,
    what: str = "the held-out text",
    watch: Watch | None = None,
    world: World = ALONE,
) -> Metrics:
    """Measure a checkpoint's model, or another instead, as its config says; `watch` is shown all predictions.

    Of several processes each measures its share, and all get the figures of the whole.

    Raises KiaraError, naming `what` is measured, if there is no target in it.
    """
    settings, tokenizer = opened.config.eval, opened.tokenizer
    return evaluate(
        model or opened.model, held.tokens, tokenizer, opened.runtime, settings.batch_size, settings.max_tokens,
        what, settings.stride, byte_lengths(tokenizer, held.tokens, held.bytes), watch, world,
    )  # fmt: skip
