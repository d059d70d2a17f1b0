"""How the loss falls with compute: L = E + A · C^-α through sizes of one model, and what the next size would reach.

In: compute and losses of each size, several seeds of each. Out: a `Law` with intervals, a `Prediction` of the next
size, and the same prediction of the largest from all smaller ones, beside what was measured.

The fit is of least squares of relative errors of the mean losses: for each α of a fine grid E and A follow in closed
form, so that it always finds the best one (the form is that of Hoffmann et al., 2022). Intervals come from a
parametric bootstrap: the spread over seeds, pooled over sizes, is drawn anew with its own uncertainty, and the law is
fitted again. They know the noise of seeds, not whether the law holds beyond what was measured. With three sizes there
is no telling a floor from a slope: E is 0 then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from kiara_cli.core.lab.statistics import LEVEL, Array, require_scipy
from kiara_cli.errors import KiaraError

Interval: TypeAlias = tuple[float, float]

SIZES = 3  # at least
FREE_FLOOR = 4  # sizes from which on E is fitted
SLOPES = np.geomspace(0.005, 3.0, 80)  # α
FINER, STEPS = 3, 15  # grids after that one, each between the neighbours of the best
DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True)
class Law:
    """E, A and α, where C is in units of `unit`."""

    floor: float
    factor: float
    slope: float
    unit: float

    def at(self, compute: float) -> float:
        return float(self.floor + self.factor * (compute / self.unit) ** -self.slope)


@dataclass(frozen=True)
class Prediction:
    """The mean loss of `seeds` runs at some compute, with its interval at LEVEL; what was measured, if it was."""

    compute: float
    loss: float
    low: float
    high: float
    seeds: int
    measured: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the interval holds what was measured."""
        return None if self.measured is None else self.low <= self.measured <= self.high


@dataclass(frozen=True)
class Scaling:
    """A law with the intervals of its numbers, its check on the largest size, and the next size."""

    law: Law
    floor: Interval
    slope: Interval
    check: Prediction
    next: Prediction
    notes: tuple[str, ...]


def scale(compute: Sequence[float], losses: Array, following: float | None = None) -> Scaling:
    """Fit sizes, losses (sizes, seeds), NaN for none; `following` is the compute to predict.

    None: as much larger as the largest is than the one before. Raises KiaraError where there is nothing to fit.
    """
    require_scipy()
    order = np.argsort(compute)
    c, y = np.asarray(compute, dtype=np.float64)[order], np.asarray(losses, dtype=np.float64)[order]
    there = np.isfinite(y).any(1) & np.isfinite(c)
    c, y = c[there], y[there]
    if len(np.unique(c)) < SIZES:
        raise KiaraError(f"{len(np.unique(c))} sizes of different compute: too few for a law", "measure at least 3")
    counts = np.isfinite(y).sum(1)
    if (counts.sum() - len(counts)) < 1:
        raise KiaraError("no size has two seeds that ended: the noise is unknown", "give more seeds")
    means = np.nanmean(y, 1)
    if means[-1] >= means[0]:
        raise KiaraError(
            f"the loss does not fall with compute: {means[0]:.4f} at {c[0]:.3g} FLOP, {means[-1]:.4f} at {c[-1]:.3g}",
            "train longer, or other sizes: no law of scaling fits",
        )
    (drawn, spreads), n = _drawn(y, means, counts), int(counts.min())
    law, *laws = _fit(c, np.vstack([means, drawn]))
    check, *checks = _fit(c[:-1], np.vstack([means, drawn])[:, :-1])
    ahead = following or float(c[-1] * c[-1] / c[-2])
    return Scaling(
        law,
        _interval([each.floor for each in laws]),
        _interval([each.slope for each in laws]),
        _predict(check, checks, float(c[-1]), spreads, int(counts[-1]), float(means[-1])),
        _predict(law, laws, ahead, spreads, n),
        tuple(_notes(law, c, means)),
    )


def _spread(y: Array, means: Array, counts: Array) -> float:
    """Return the standard deviation over seeds of the loss's logarithm, pooled over sizes."""
    squares = np.nansum((np.log(y) - np.log(means)[:, None]) ** 2)
    return math.sqrt(squares / (counts.sum() - len(counts)))


def _drawn(y: Array, means: Array, counts: Array) -> tuple[Array, Array]:
    """Draw mean losses anew, (DRAWS, sizes), and the spread over seeds that each has, (DRAWS).

    They are normal in the logarithm, the spread itself by chi-square.
    """
    rng, degrees = np.random.default_rng(0), counts.sum() - len(counts)
    spread = _spread(y, means, counts) * np.sqrt(degrees / rng.chisquare(degrees, DRAWS))
    noise = rng.standard_normal((DRAWS, len(means))) * spread[:, None] / np.sqrt(counts)
    return np.asarray(means * np.exp(noise)), spread


def _fit(compute: Array, means: Array) -> list[Law]:
    """Fit a law to each row of mean losses, (rows, sizes): the best α of a grid, then of finer ones around it."""
    unit = float(np.exp(np.log(compute).mean()))
    logs, rows = np.log(compute / unit), np.arange(len(means))
    slopes = np.broadcast_to(SLOPES, (len(means), len(SLOPES)))
    for _ in range(FINER + 1):
        floors, factors, errors = _solve(logs, means, slopes)
        best = np.argmin(errors, 1)
        found = floors[rows, best], factors[rows, best], slopes[rows, best]
        low, high = (slopes[rows, np.clip(best + side, 0, slopes.shape[1] - 1)] for side in (-1, 1))
        slopes = np.linspace(low, high, STEPS, axis=1)
    return [Law(float(e), float(a), float(slope), unit) for e, a, slope in zip(*found, strict=True)]


def _solve(logs: Array, means: Array, slopes: Array) -> tuple[Array, Array, Array]:
    """Return E, A and the sum of squared relative errors for each row of losses and each of its slopes."""
    x = np.exp(-slopes[..., None] * logs)  # (rows, slopes, sizes)
    y, weight = means[:, None, :], 1 / means[:, None, :] ** 2
    total, wx, wy = weight.sum(-1), (weight * x).sum(-1), (weight * y).sum(-1)
    wxx, wxy = (weight * x**2).sum(-1), (weight * x * y).sum(-1)
    factor = (total * wxy - wx * wy) / (total * wxx - wx**2)
    floor = (wy - factor * wx) / total
    bound = floor < 0 if len(logs) >= FREE_FLOOR else np.ones_like(floor, dtype=bool)
    floor, factor = np.where(bound, 0.0, floor), np.where(bound, wxy / wxx, factor)
    errors = (weight * (floor[..., None] + factor[..., None] * x - y) ** 2).sum(-1)
    return floor, factor, np.where(factor > 0, errors, np.inf)


def _predict(
    law: Law, laws: Sequence[Law], compute: float, spreads: Array, seeds: int, measured: float | None = None
) -> Prediction:
    """Predict a mean of `seeds` runs: the fits' spread, and that of such a mean."""
    noise = np.random.default_rng(1).standard_normal(len(laws)) * spreads / math.sqrt(seeds)
    low, high = _interval([each.at(compute) * math.exp(own) for each, own in zip(laws, noise, strict=True)])
    return Prediction(compute, law.at(compute), low, high, seeds, measured)


def _interval(values: Sequence[float]) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _notes(law: Law, compute: Array, means: Array) -> list[str]:
    notes = []
    if len(compute) < FREE_FLOOR:
        notes.append(f"with {len(compute)} sizes the floor E cannot be told from the slope: it is taken as 0")
    elif law.floor < 1e-3 * means.min():
        notes.append("the sizes show no floor: E is 0")
    if not SLOPES[1] < law.slope < SLOPES[-2] or law.floor > 0.99 * means.min():
        notes.append("the loss hardly falls any more: the law is at the edge of what it can describe")
    if (np.diff(means) >= 0).any():
        notes.append("the loss does not fall from every size to the next: a law through it is doubtful")
    if compute[-1] / compute[0] < 5:
        notes.append(f"the largest size has only {compute[-1] / compute[0]:.1f} times the compute of the smallest")
    return notes
