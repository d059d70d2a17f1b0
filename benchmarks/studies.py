"""What the statistics of `kiara runs ablate` are worth, on simulated studies: one table, and with --json a file.

    python benchmarks/studies.py [--studies 20000] [--looks-studies 2000] [--laws 500] [--json FILE]

Each cell simulates studies of k variants and n seeds, with a common effect of the seed, and counts, where no variant
differs: how often any is called different (to be 5 %), and each by itself; where they do differ: how often all
intervals hold the true differences (to be 95 %), and how often a variant 1, 2 or 3 standard deviations away is told.
`resolves` is the difference, in standard deviations of a run, that 80 % of studies tell. Three procedures: `own` is
what Kiara does; `equal` what it does where a study declares equal noise, its check included; `Dunnett` the same
without a check. Noise: equal; one variant or the baseline with 2 or 3 times the others' standard deviation, or a
third. The second table looks at the results several times, by the declared rule and without one; the
last lines are of the intervals of laws of scaling.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from scipy import stats
from scipy.interpolate import RegularGridInterpolator

from kiara_cli.core.lab import looks
from kiara_cli.core.lab.scaling import scale
from kiara_cli.core.lab.statistics import (
    UNFAIR,
    Array,
    Noise,
    critical,
    estimate,
    inequality,
    p_values,
    pooled,
    resolvable,
)

SEEDS, VARIANTS = (3, 5, 8), (1, 2, 3, 4, 5, 6)
NOISE: dict[str, Callable[[int], list[float]]] = {  # standard deviations of the baseline, then of k variants
    "equal": lambda k: [1.0] * (k + 1),
    "variant × 2": lambda k: [1.0] * k + [2.0],
    "baseline × 2": lambda k: [2.0] + [1.0] * k,
    "variant × 3": lambda k: [1.0] * k + [3.0],
    "baseline × 3": lambda k: [3.0] + [1.0] * k,
    "baseline / 3": lambda k: [1 / 3] + [1.0] * k,
    "1 to 3": lambda k: list(np.linspace(1, 3, k + 1)),
}
SEED_EFFECT = 1.5  # standard deviation of what a seed does to all arms
CORRELATIONS, INVERSE_DEGREES = np.linspace(0, 1, 9), np.linspace(1 / 80, 1, 24)
Row: TypeAlias = dict[str, Any]


class Thresholds:
    """critical() for many studies at once, between nodes of a grid over correlation and 1 / degrees of freedom."""

    def __init__(self, k: int) -> None:
        logs = [[np.log(critical(k, 1 / x, r)) for x in INVERSE_DEGREES] for r in CORRELATIONS]
        self.at = RegularGridInterpolator((CORRELATIONS, INVERSE_DEGREES), logs, method="cubic")

    def of(self, noise: Noise) -> Array:
        x = np.clip(1 / noise.degrees, INVERSE_DEGREES[0], INVERSE_DEGREES[-1])
        return np.exp(self.at(np.stack([np.broadcast_to(noise.correlation[:, None], x.shape), x], -1)))


def draw(studies: int, k: int, n: int, noise: str, shift: float = 0.0, seed: int = 0) -> Array:
    """Simulate studies, (studies, k + 1, n); the first variant is shifted."""
    rng = np.random.default_rng([seed, k, n, list(NOISE).index(noise)])
    own = rng.standard_normal((studies, k + 1, n)) * np.array(NOISE[noise](k))[None, :, None]
    values = own + SEED_EFFECT * rng.standard_normal((studies, 1, n))
    values[:, 1] += shift
    return values


def margins(values: Array, procedure: str, thresholds: Thresholds, unfair: float) -> tuple[Array, Array]:
    """Return differences and half widths, (studies, k)."""
    noise = estimate(values) if procedure == "own" else pooled(values)
    margin = thresholds.of(noise) * np.sqrt(noise.variance / noise.seeds)
    if procedure == "equal":
        other = estimate(values)
        wide = thresholds.of(other) * np.sqrt(other.variance / other.seeds)
        margin = np.where((inequality(values) > unfair)[:, None], wide, margin)
    return noise.difference, margin


def cell(k: int, n: int, noise: str, procedure: str, studies: int, thresholds: Thresholds, unfair: float) -> Row:
    difference, margin = margins(draw(studies, k, n, noise), procedure, thresholds, unfair)
    wrong = np.abs(difference) > margin
    row: Row = {"n": n, "k": k, "noise": noise, "procedure": procedure, "any": wrong.any(1).mean()}
    row |= {"each": wrong.mean(), "worst": wrong.mean(0).max()}
    truth = np.linspace(-1, 2, k)
    values = draw(studies, k, n, noise, seed=1)
    values[:, 1:] += truth[None, :, None]
    difference, margin = margins(values, procedure, thresholds, unfair)
    row["coverage"] = (np.abs(difference - truth) <= margin).all(1).mean()
    for shift in (1, 2, 3):
        difference, margin = margins(draw(studies, k, n, noise, shift, seed=2), procedure, thresholds, unfair)
        row[f"power {shift}"] = (np.abs(difference[:, 0]) > margin[:, 0]).mean()
    return row


def several_looks(k: int, n: int, studies: int) -> Row:
    """Look at 3, 5 and 8 seeds: how often is any null told at some look, by the rule and without one?"""
    at = [look for look in SEEDS if look <= n]
    ruled = peeked = futile = 0
    for values in draw(studies, k, n, "equal", seed=3):
        ruled += any(each.comparison is not None and each.comparison.told for each in looks.decide(values, at))
        given = looks.decide(values, at, worth=1.0)
        futile += any(each.comparison is not None and each.comparison.told for each in given)
        peeked += any((p_values(estimate(values[:, :look]), k) < 0.05).any() for look in at)
    rates = {"by the rule": ruled, "and giving up": futile, "without a rule": peeked}
    return {"k": k, "looks": at} | {name: count / studies for name, count in rates.items()}


def anchors() -> dict[str, float]:
    """Differences that 80 % of studies tell by a t-test of one variant, not corrected for several."""

    def tells(degrees: int, n: int) -> float:
        threshold = stats.t.isf(0.025, degrees)
        tried = np.linspace(0, 8, 8001)
        return float(tried[np.argmax(stats.nct.sf(threshold, degrees, tried) >= 0.8)] * np.sqrt(2 / n))

    return {f"pairs alone, {n} seeds": tells(n - 1, n) for n in SEEDS} | {
        f"five arms share the noise, {n} seeds": tells(5 * (n - 1), n) for n in SEEDS
    }


def scaling_holds(studies: int) -> dict[str, float]:
    """Count how often a new size of 3 seeds lies in the interval that 4 or 5 sizes of 3 seeds predict."""
    rng, rates = np.random.default_rng(5), {}
    for sizes in (4, 5):
        compute, held = 1e12 * 3.0 ** np.arange(sizes), 0
        for _ in range(studies):
            noise = np.exp(0.005 * rng.standard_normal((sizes + 1, 3)))
            losses = (1.2 + 2.0 * 3.0 ** (-0.3 * np.arange(sizes + 1)))[:, None] * noise
            found = scale(compute, losses[:-1]).next
            held += found.low <= losses[-1].mean() <= found.high
        rates[f"{sizes} sizes"] = held / studies
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20_000)
    parser.add_argument("--looks-studies", type=int, default=2_000)
    parser.add_argument("--laws", type=int, default=500)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    print(f"{given.studies:,} studies a cell: chance is ± {1.96 * (0.05 * 0.95 / given.studies) ** 0.5:.2%} at 5 %\n")
    print("| n | k | noise | procedure | any | each | worst | coverage | power 1 | 2 | 3 sd |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for k in VARIANTS:
        thresholds = Thresholds(k)
        for n in SEEDS:
            unfair = float(np.quantile(inequality(draw(200_000, k, n, "equal", seed=9)), 1 - UNFAIR)) * (1 + 1e-9)
            for noise in NOISE:
                for procedure in ("own", "equal", "Dunnett") if k > 1 else ("own",):
                    row = cell(k, n, noise, procedure, given.studies, thresholds, unfair)
                    rows.append(row)
                    rates = (row[name] for name in ("any", "each", "worst", "coverage"))
                    powers = (f"{row[f'power {shift}']:.2f}" for shift in (1, 2, 3))
                    cells = [f"{n}", f"{k}", noise, procedure, *(f"{rate:.1%}" for rate in rates), *powers]
                    print(f"| {' | '.join(cells)} |", flush=True)
    print("\nThe smallest difference that 80 % of studies tell, in standard deviations of a run (equal noise):\n")
    resolves = {f"{k} variants, {n} seeds": resolvable(n, k) for n in SEEDS for k in (1, 2, 4, 6)}
    for name, value in (resolves | anchors()).items():
        print(f"* {name}: {value:.2f}")
    print("\nAny null told when a study is looked at several times:\n")
    peeks = [several_looks(k, 8, given.looks_studies) for k in (1, 3)] if given.looks_studies else []
    for row in peeks:
        print("* " + ", ".join(f"{name} {value:.1%}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()))  # fmt: skip  # noqa: E501
    laws = scaling_holds(given.laws) if given.laws else {}
    print("\nThe interval of the next size of a law of scaling holds it:\n")
    for name, rate in laws.items():
        print(f"* {name}: {rate:.1%}")
    if given.json:
        given.json.write_text(
            json.dumps({"cells": rows, "resolves": resolves | anchors(), "looks": peeks, "laws": laws}, indent=1)
        )


if __name__ == "__main__":
    main()
