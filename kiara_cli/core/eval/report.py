"""Everything `kiara eval` says of a model, measured in one call.

In: an opened checkpoint, where to measure, and whether in detail. Out: `Report`, and the same as JSON values.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kiara_cli.core.data.shards import Tokens
from kiara_cli.core.eval.details import Details, Group, TopFive
from kiara_cli.core.eval.held_out import Held, HeldOut, held_of, measure, training_split
from kiara_cli.core.eval.lengths import count_ids
from kiara_cli.core.eval.metrics import Metrics
from kiara_cli.core.eval.novelty import Novelty, Repetition, novelty, repetition
from kiara_cli.core.eval.samples import Sample, write_samples
from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.runtime.parallel import ALONE, World
from kiara_cli.core.tokenizer.protocol import decode

SAMPLES = 4  # at random, where details are asked for and no number is given

log = logging.getLogger("kiara.eval")


@dataclass(frozen=True)
class Wrote:
    """What the samples of a model are like, beside as many stretches of the text that was measured."""

    repetition: Repetition
    held_out_repetition: Repetition
    novelty: Novelty | None = None  # None: the training data is not there
    held_out_novelty: Novelty | None = None
    copied: str = ""  # the longest stretch that stands in the training data


@dataclass(frozen=True)
class Report:
    checkpoint: Path
    split: str
    metrics: Metrics
    top: TopFive
    samples: tuple[Sample, ...] = ()
    by_frequency: tuple[Group, ...] = ()  # none without details, or without the training data
    wrote: Wrote | None = None

    @property
    def details(self) -> Details | None:
        return self.top if isinstance(self.top, Details) else None

    def record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        metrics = self.metrics
        values: dict[str, Any] = {
            "checkpoint": str(self.checkpoint),
            "split": self.split,
            "loss": metrics.loss,
            "loss_standard_error": metrics.standard_error,
            "perplexity": metrics.perplexity,
            "bits_per_byte": metrics.bits_per_byte,
            "accuracy": metrics.accuracy,
            "top5_accuracy": self.top.accuracy,
            "tokens": metrics.tokens,
            "bytes": metrics.bytes,
            "window": metrics.window,
            "stride": metrics.stride,
            "unknown_tokens": metrics.unknown,
            "unknown_bytes": metrics.unknown_bytes,
            "conversations_cut": metrics.cut,
        }
        for kind, part in (("documents", metrics.documents), ("conversations", metrics.conversations)):
            if part is not None and part.tokens:
                values |= {f"{kind}_loss": part.loss, f"{kind}_tokens": part.tokens}
        if self.samples:
            values["samples"] = [{"how": sample.how, "text": sample.text} for sample in self.samples]
        if self.details is not None:
            values |= {
                "calibration_error": self.details.calibration_error,
                "calibration": [vars(one) for one in self.details.calibration()],
                "loss_by_position": [vars(one) for one in self.details.by_position()],
                "loss_by_frequency": [vars(one) for one in self.by_frequency],
            }
        return values | (dataclasses.asdict(self.wrote) if self.wrote is not None else {})


def report(opened: Opened, where: HeldOut, samples: int = 0, details: bool = False, world: World = ALONE) -> Report:
    """Measure a model, in detail if that is asked for, and let it write. Raises KiaraError.

    Of several processes each measures its share; the first one writes and looks at what was written.
    """
    held = held_of(opened, where)
    vocab_size = opened.model.config.vocab_size
    assert vocab_size is not None
    top = Details(opened.model.config.context_length, vocab_size) if details else TopFive()
    what = where.name if where.text is not None else f"the {where.split} split"
    metrics = measure(opened, held, what=what, watch=top, world=world)
    top.put_together(world)
    if not world.is_first:
        return Report(opened.checkpoint.path, where.name, metrics, top)
    if details:
        samples = samples or SAMPLES
    written = tuple(write_samples(opened, samples)) if samples else ()
    found = Report(opened.checkpoint.path, where.name, metrics, top, written)
    if not isinstance(top, Details):
        return found
    training = training_split(opened, where.root)
    if training is None:
        log.warning("its training data is not there: nothing is said of token frequency and novelty")
    counts = count_ids(training, vocab_size) if training is not None else None
    groups = tuple(top.by_frequency(counts)) if counts is not None else ()
    return dataclasses.replace(found, by_frequency=groups, wrote=_compare(opened, held, training, written))


def _compare(opened: Opened, held: Held, training: Tokens | None, samples: Sequence[Sample]) -> Wrote:
    """Compare what a model wrote with its training data, and with stretches of equal length of what was measured."""
    texts = [np.array(sample.ids, dtype=np.int64) for sample in samples]
    starts = np.linspace(0, max(0, len(held.tokens) - max(map(len, texts))), len(texts)).astype(int)
    others = [np.asarray(held.tokens[s : s + len(ids)]) for s, ids in zip(starts.tolist(), texts, strict=True)]
    wrote = Wrote(repetition(texts), repetition(others))
    if training is None:
        return wrote
    found = novelty(texts, training)
    span = found.longest
    copied = decode(opened.tokenizer, samples[span.text].ids[span.start : span.start + span.length])
    return dataclasses.replace(wrote, novelty=found, held_out_novelty=novelty(others, training), copied=copied)
