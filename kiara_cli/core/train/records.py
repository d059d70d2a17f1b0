"""Events of the loop as records: what metrics.jsonl, trackers and --json show.

In: an event. Out: a flat object of plain values.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, TypeAlias

from kiara_cli.core.eval.metrics import Metrics
from kiara_cli.core.train.events import Evaluated, Finished, Skipped, Stepped, ThreadsChanged
from kiara_cli.core.train.preference import PairMetrics

Recorded: TypeAlias = Stepped | Skipped | ThreadsChanged | Evaluated | Finished


def summary(metrics: Metrics | PairMetrics) -> dict[str, float]:
    """Name the validation figures as metrics.jsonl and checkpoints do."""
    if isinstance(metrics, PairMetrics):
        return {
            "val_loss": metrics.loss,
            "val_reward_accuracy": metrics.accuracy,
            "val_reward_margin": metrics.margin,
        }
    return {
        "val_loss": metrics.loss,
        "val_perplexity": metrics.perplexity,
        "val_bits_per_byte": metrics.bits_per_byte,
        "val_accuracy": metrics.accuracy,
    }


def record_of(event: Recorded) -> dict[str, Any]:
    """Return the record of an event."""
    if isinstance(event, Finished):
        values = dataclasses.asdict(event).items()
        return {name: str(value) if isinstance(value, Path) else value for name, value in values}
    if isinstance(event, Evaluated):
        return {
            "step": event.step,
            **summary(event.metrics),
            ("val_pairs" if isinstance(event.metrics, PairMetrics) else "val_tokens"): event.metrics.tokens,
            "val_seconds": event.seconds,
        }
    if isinstance(event, Skipped):
        return {"step": event.step, "skipped_batch": event.batch, "parameter": event.parameter}
    if isinstance(event, ThreadsChanged):
        return {
            "step": event.step,
            "threads": event.threads,
            "threads_before": event.before,
            "stays": event.stays,
            "reason": event.reason,
        }
    reading = event.reading
    return {
        "step": event.step,
        "loss": event.loss,
        **({} if "reward_margin" in event.hooks else {"perplexity": math.exp(min(event.loss, 700.0))}),
        "lr": event.lr,
        "grad_norm": event.grad_norm,
        "tokens": event.tokens,
        "seconds": event.seconds,
        "tokens_per_second": reading.tokens_per_second,
        "flops_per_second": reading.flops_per_second,
        "fraction_of_peak": reading.fraction_of_peak,
        **{f"{phase}_ms": 1000 * seconds for phase, seconds in reading.seconds.items()},
        "memory_bytes": event.memory,
        **event.hooks,
    }


def describe(event: Skipped) -> str:
    """Say what is not finite, where in the data, and which weight's gradient shows it first."""
    what = "the loss" if not math.isfinite(event.loss) else "the gradient"
    return f"step {event.step}, batch {event.batch}: {what} is not finite ({event.parameter})"
