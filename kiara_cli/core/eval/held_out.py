"""The ids to measure a model on: a split of the data it was trained on, or a text of its own.

In: an opened checkpoint. Out: token ids, and what the model makes of them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from kiara_cli.core.data.encoding import encode_documents
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.data.prepare import reopen
from kiara_cli.core.data.readers import read_documents
from kiara_cli.core.data.shards import Tokens
from kiara_cli.core.data.slices import Reading
from kiara_cli.core.data.source import Report, means_of
from kiara_cli.core.eval.metrics import Metrics, evaluate
from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.model.transformer import Transformer
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

    @property
    def name(self) -> str:
        return self.split if self.text is None else str(self.text)


def ids_of(opened: Opened, where: HeldOut) -> Tokens:
    """Return the ids to measure on. Raises KiaraError if there are none."""
    if where.text is not None:
        return encoded(opened, where)
    prepared = own_data(opened, where)
    return prepared.val if where.split == "val" else prepared.train


def ids_to_calibrate(opened: Opened, where: HeldOut) -> tuple[Tokens, Tokens]:
    """Return ids to calibrate on and others to measure on. Raises KiaraError if there are none."""
    if where.text is not None:
        ids = encoded(opened, where)
        cut = len(ids) - len(ids) // HELD_OUT
        return ids[:cut], ids[cut:]
    prepared = own_data(opened, where)
    return prepared.train, prepared.val


def encoded(opened: Opened, where: HeldOut) -> Tokens:
    """Return the ids of a text."""
    data = opened.config.data
    reading = Reading(data.field, where.skip_bad, data.encoding, data.prompt_field, data.reply_field)
    documents = read_documents(str(where.text), reading)
    for notice in reading.notices.lines():
        log.warning(notice)
    return np.concatenate(list(encode_documents(documents, opened.tokenizer)))


def own_data(opened: Opened, where: HeldOut) -> Prepared:
    """Return the data that a model was trained on. Raises KiaraError."""
    config, recorded = opened.config, opened.checkpoint.data
    if not recorded.get("folder"):
        raise KiaraError(f"{opened.checkpoint.path} was imported and has no text of its own", "give --text FILE")
    means = means_of(config, where.skip_bad)
    return reopen(config.data, config.tokenizer, where.root, opened.tokenizer, recorded, where.report, means)


def measure(
    opened: Opened, ids: Tokens, model: Transformer | None = None, what: str = "the held-out text"
) -> Metrics:
    """Measure a checkpoint's model, or another instead, as its config says.

    Raises KiaraError, naming `what` is measured, if there is no target in it.
    """
    settings = opened.config.eval
    model = model or opened.model
    return evaluate(model, ids, opened.tokenizer, opened.runtime, settings.batch_size, settings.max_tokens, what)
