"""Curves of runs: one figure of metrics.jsonl over steps, tokens, FLOPs or seconds.

In: runs and the names of two axes. Out: `Series`, and what PNG and HTML files show of them.
"""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kiara_cli.core.checkpoint.history import History, numbers
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.lab.groups import group
from kiara_cli.core.lab.records import read_record
from kiara_cli.core.model.count import count
from kiara_cli.errors import KiaraError

Axis: TypeAlias = Literal["steps", "tokens", "flops", "seconds"]

X_LABELS: dict[Axis, str] = {"steps": "steps", "tokens": "tokens", "flops": "FLOPs", "seconds": "seconds"}
Y_LABELS = {
    "loss": "loss (nats per token)",
    "val_loss": "validation loss (nats per token)",
    "val_bits_per_byte": "bits per byte of the validation split",
    "val_perplexity": "perplexity of the validation split",
    "val_accuracy": "accuracy on the validation split",
    "lr": "learning rate",
    "grad_norm": "norm of the gradient before clipping",
    "tokens_per_second": "tokens a second",
    "memory_bytes": "memory (bytes, at most)",
}
SHORT = {"bits_per_byte": "val_bits_per_byte", "perplexity": "val_perplexity", "accuracy": "val_accuracy"}


@dataclass(frozen=True)
class Series:
    """One curve; with `low` and `high` where it is the mean of several."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None


def key_of(y: str) -> str:
    """Return the key of metrics.jsonl that a person means."""
    return SHORT.get(y, y)


def series_of(run: Run, x: Axis, y: str, smooth: float = 0.0) -> Series:
    """Read a run's curve of the key `y`. Raises KiaraError for a run without such records."""
    history = run.history()
    points = numbers(history.rows, y)
    if not points:
        there = sorted({key for row in history.rows for key in row if numbers([row], key)} - {"step"})
        cause = f"run {run.name} has no records of {y}" if there else f"run {run.name} has no records"
        raise KiaraError(cause, f"it has: {', '.join(there)}" if there else "there is nothing to plot")
    points.sort(key=lambda point: int(point[0]["step"]))
    place = Scale(run, history, x)
    xs = tuple(place(float(row["step"])) for row, _ in points)
    return Series(run.name, xs, smoothed([value for _, value in points], smooth))


def curves_of(runs: Sequence[Run], x: Axis, y: str, smooth: float = 0.0, grouped: bool = False) -> list[Series]:
    """Read the curves of several runs; `grouped`: of those that differ in the seed alone, the mean."""
    if not grouped:
        return [series_of(run, x, y, smooth) for run in runs]
    places = {run.name: run for run in runs}
    return [
        mean_of(each.name, [series_of(places[record.name], x, y, smooth) for record in each.records])
        for each in group(read_record(run) for run in runs)
    ]


def smoothed(values: Sequence[float], share: float) -> tuple[float, ...]:
    """Average exponentially: each value keeps `share` (0 to below 1) of the mean before it; the start is unbiased."""
    if not share:
        return tuple(values)
    mean, weight, found = 0.0, 0.0, []
    for value in values:
        mean, weight = share * mean + (1 - share) * value, share * weight + (1 - share)
        found.append(mean / weight)
    return tuple(found)


def mean_of(name: str, members: Sequence[Series]) -> Series:
    """Average curves where all of them are known, at the places of the first; low and high are the extremes."""
    if len(members) == 1:
        return Series(name, members[0].x, members[0].y)
    low, high = max(member.x[0] for member in members), min(member.x[-1] for member in members)
    xs = tuple(x for x in members[0].x if low <= x <= high) or (low,)
    columns = [[_at(member.x, member.y, x) for member in members] for x in xs]
    means = tuple(statistics.fmean(column) for column in columns)
    return Series(f"{name} (mean of {len(members)})", xs, means, tuple(map(min, columns)), tuple(map(max, columns)))


class Scale:
    """Where a step of a run is on an axis: between two records by a straight line."""

    def __init__(self, run: Run, history: History, axis: Axis) -> None:
        self.steps: list[float] = [0.0]
        self.values: list[float] = [0.0]
        self.axis, self.factor = axis, 1.0
        if axis == "steps":
            return
        if axis == "flops":
            self.factor = _flops_per_token(run)
        seconds, before = 0.0, 0.0
        for row, tokens in numbers(history.rows, "tokens"):
            rate = row.get("tokens_per_second")
            seconds = row.get("seconds", seconds + (tokens - before) / rate if rate else seconds)
            before = tokens
            if row["step"] > self.steps[-1]:
                self.steps.append(float(row["step"]))
                self.values.append(seconds if axis == "seconds" else tokens)
        if len(self.steps) == 1:
            raise KiaraError(f"run {run.name} has no records of its {axis}", "take --x steps")

    def __call__(self, step: float) -> float:
        return step if self.axis == "steps" else self.factor * _at(self.steps, self.values, step)


def _at(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Read a piecewise linear curve; beyond its ends its first and last pieces go on."""
    if len(xs) == 1:
        return ys[0]
    index = min(max(1, bisect.bisect_left(xs, x)), len(xs) - 1)
    width = xs[index] - xs[index - 1]
    if not width:
        return ys[index]
    return ys[index - 1] + (ys[index] - ys[index - 1]) * (x - xs[index - 1]) / width


def _flops_per_token(run: Run) -> float:
    known = run.facts().get("flops_per_token")
    return float(known) if isinstance(known, int | float) else float(count(run.config().model).training_flops)
