"""A baseline and variants over the same seeds: differences, intervals, p-values, and how many seeds would tell.

In: measurements, one row an arm (the baseline first), one column a seed; NaN where there is none. Out: a `Comparison`
for each variant, of which the intervals hold all together, and the `Pairing`: how alike arms are over seeds.

Every seed is a block: it fixes initial weights and the order of the data for all arms, and what is judged is the
difference within a seed. Let d be the n differences of a variant, V their variance, W = the mean of V over variants.
1. The noise of a variant is s W + (1 - s) V with s = 0.5, and 0.6 up to three seeds: shared with all variants, as few
   seeds tell little, but its own counts too.
2. Its degrees of freedom are Satterthwaite's (1946), with the share of the baseline in the differences, which makes
   them correlated, estimated from the data: (n - 1) / (1 - (2 s - s²) (1 - g)), g = (1 + (k - 1) r²) / k for k
   variants whose differences correlate by r.
3. Critical values and p-values are Dunnett's (1955) for that correlation: of the largest |t| of k variants.
With one variant this is the paired t-test, which is exact. Where a study declares that all arms have equal noise, the
noise is pooled over all of them, with (n - 1) k degrees of freedom, unless a check says that this is not fair. That
tells smaller differences, but it is no default: with few seeds no check finds the unequal noise that makes pooling
wrong (benchmarks/studies.py measures both).
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kiara_cli.errors import KiaraError

try:
    from scipy import optimize, special, stats
except ImportError:  # the extra `lab`
    stats = None

Array: TypeAlias = NDArray[np.float64]

LEVEL = 0.95
SHARED, SHARED_OF_FEW, FEW = 0.5, 0.6, 3  # of a variant's noise, up to FEW seeds; chosen by the error rates they give
POWER = 0.8  # of finding a difference, where a number of seeds is proposed
MOST_SEEDS = 200  # to propose
UNFAIR = 0.1  # pooling is given up where noise so unequal comes about by chance in fewer studies with equal noise
DRAWS = 20_000  # of studies with equal noise, to say so
NODES = 96  # of the quadratures over the shared part and over the noise


@dataclass(frozen=True)
class Comparison:
    """A variant against the baseline. `low` to `high` holds for all variants together with probability `level`."""

    seeds: int  # that both have
    difference: float  # variant minus baseline, the mean over seeds
    noise: float  # standard deviation of one seed's difference
    low: float
    high: float
    p: float  # of so large a difference in any variant where there is none, all variants considered
    level: float
    degrees: float  # of freedom
    correlation: float  # of two variants' differences
    family: int  # variants that share the error rate
    pooled: bool  # whether the noise is that of all arms

    @functools.cached_property
    def seeds_needed(self) -> int | None:
        """About how many seeds would tell a difference as large as this one; None: more than MOST_SEEDS."""
        return seeds_needed(self)

    @property
    def margin(self) -> float:
        return (self.high - self.low) / 2

    @property
    def told(self) -> bool:
        """Whether it is no chance at this level."""
        return self.p < 1 - self.level


@dataclass(frozen=True)
class Pairing:
    """How alike two arms are over seeds: the intraclass correlation, and its interval at LEVEL (Shrout, Fleiss 1979).

    `ratio` is the largest standard deviation of an arm over seeds by the smallest.
    """

    correlation: float
    low: float
    high: float
    ratio: float


@dataclass(frozen=True)
class Noise:
    """What is estimated of the differences; leading axes are of many studies at once."""

    difference: Array  # (..., k)
    variance: Array  # (..., k): of one seed's difference
    seeds: NDArray[np.int64]  # (..., k)
    degrees: Array  # (..., k)
    correlation: Array  # (...): of two variants' differences, as both have the baseline in them
    pooled: bool = False


def require_scipy() -> None:
    """Raise KiaraError where scipy is missing."""
    if stats is None:
        raise KiaraError("the statistics of studies need scipy", "install it with: pip install 'kiara-slm[lab]'")


def compare(
    values: Any, level: float = LEVEL, family: int | None = None, equal_noise: bool = False
) -> list[Comparison | None]:
    """Compare each variant with the baseline, values (k + 1, n); None where fewer than two seeds are shared.

    `family` is how many variants share the error rate where that is more than are given; `equal_noise` is what the
    study declares. Raises KiaraError without scipy.
    """
    require_scipy()
    table = np.asarray(values, dtype=np.float64)
    judged = np.isfinite(table[1:] - table[:1]).sum(1) > 1
    found: list[Comparison | None] = [None] * len(judged)
    if not judged.any():
        return found
    table = table[np.concatenate(([True], judged))]
    pools = equal_noise and bool(np.isfinite(table).all()) and fairness(table) > UNFAIR
    noise = pooled(table) if pools else estimate(table)
    for place, arm in enumerate(np.flatnonzero(judged)):
        found[arm] = _comparison(noise, place, max(family or 1, len(noise.difference)), level)
    return found


def _comparison(noise: Noise, arm: int, k: int, level: float) -> Comparison:
    difference, variance = float(noise.difference[arm]), float(noise.variance[arm])
    seeds, degrees, correlation = int(noise.seeds[arm]), float(noise.degrees[arm]), float(noise.correlation)
    error = math.sqrt(variance / seeds)
    margin = error * critical(k, degrees, correlation, level)
    p = exceeding(abs(difference) / error, k, degrees, correlation) if error else 0.0 if difference else 1.0
    low, high, deviation = difference - margin, difference + margin, math.sqrt(variance)
    return Comparison(seeds, difference, deviation, low, high, p, level, degrees, correlation, k, noise.pooled)


def pooled(values: Array) -> Noise:
    """Estimate differences and the noise that all arms share, values (..., k + 1, n): Dunnett's test with blocks."""
    difference = values[..., 1:, :].mean(-1) - values[..., :1, :].mean(-1)
    n, shape = values.shape[-1], difference.shape
    rest = values - values.mean(-1, keepdims=True)
    rest = rest - rest.mean(-2, keepdims=True)
    degrees = (n - 1) * shape[-1]
    variance = np.broadcast_to(2 * (rest**2).sum((-2, -1))[..., None] / degrees, shape)
    half = np.full(shape[:-1], 0.5 if shape[-1] > 1 else 0.0)
    return Noise(difference, variance, np.full(shape, n), np.full(shape, float(degrees)), half, pooled=True)


def inequality(values: Array) -> Array:
    """Return the largest noise of an arm by that of the others, values (..., k + 1, n); noise as variances."""
    differences = values[..., 1:, :] - values[..., :1, :]
    variances: Array = differences.var(-1, ddof=1)  # (..., k)
    if variances.shape[-1] == 1:
        return np.ones_like(variances[..., 0])
    largest = np.zeros_like(variances[..., 0])
    for arm in range(values.shape[-2]):
        mine = variances[..., arm - 1] if arm else variances.mean(-1)
        others = pooled(np.delete(values, arm, axis=-2)).variance[..., 0]
        fallback = np.where(mine > 0, np.inf, 1.0)
        largest = np.maximum(largest, np.divide(mine, others, out=fallback, where=others > 0))
    return largest


def fairness(values: Array) -> float:
    """Return how many of DRAWS studies with equal noise show as unequal noise as values (k + 1, n), as a share."""
    draws = np.random.default_rng(0).standard_normal((DRAWS, *values.shape))
    return float((inequality(draws) >= inequality(values) * (1 - 1e-9)).mean())


def estimate(values: Array) -> Noise:
    """Estimate differences and their noise, values (..., k + 1, n), as the module says."""
    differences = values[..., 1:, :] - values[..., :1, :]  # (..., k, n)
    k = differences.shape[-2]
    there = np.isfinite(differences)
    differences = np.where(there, differences, 0.0)
    seeds = there.sum(-1)
    mean = differences.sum(-1) / np.maximum(seeds, 1)
    squares = (np.where(there, differences - mean[..., None], 0.0) ** 2).sum(-1)
    own_degrees = np.maximum(seeds - 1, 0)
    own = squares / np.maximum(own_degrees, 1)
    shared = squares.sum(-1) / np.maximum(own_degrees.sum(-1), 1)  # (...)
    whole: NDArray[np.bool_] = np.asarray(there.all(-2))  # (..., n): seeds that every arm has
    correlation = _correlation(differences, whole, shared)
    known = whole.sum(-1) > 2  # else nothing is gained from the other variants
    g = np.where(known, (1 + (k - 1) * correlation**2) / k, 1.0)
    share = np.where(seeds > FEW, SHARED, SHARED_OF_FEW)
    gain = 1 - (2 * share - share**2) * (1 - g[..., None])
    variance = np.where(seeds > 1, share * shared[..., None] + (1 - share) * own, np.nan)
    return Noise(np.where(seeds > 0, mean, np.nan), variance, seeds, own_degrees / gain, correlation)


def _correlation(differences: Array, whole: NDArray[np.bool_], shared: Array) -> Array:
    """Estimate the correlation of two variants' differences from the seeds that are whole: 1/2 for equal noise."""
    k, n = differences.shape[-2], whole.sum(-1)
    if k == 1:
        return np.zeros_like(shared)
    mean = differences.mean(-2)  # (..., n): over variants, so the baseline's part, and 1/k of a variant's
    centre = np.where(whole, mean, 0.0).sum(-1) / np.maximum(n, 1)
    common = (np.where(whole, mean - centre[..., None], 0.0) ** 2).sum(-1) / np.maximum(n - 1, 1)
    within = np.maximum(shared - common, 0.0) * k / (k - 1)  # a variant's own part
    found = (common - within / k) / np.where(shared > 0, shared, 1.0)
    return np.where(n > 2, np.clip(found, 0.0, 1.0), 0.0)


def exceeding(t: float, k: int, degrees: float, correlation: float) -> float:
    """Return the probability that the largest |t| of k that correlate by `correlation` is above `t` by chance."""
    if k == 1:
        return float(2 * stats.t.sf(t, degrees))
    correlation = min(correlation, 0.999)
    z, weight = _normal_nodes()
    s, chance = _noise_nodes(degrees)
    edge, shift = t * s[:, None], math.sqrt(correlation) * z[None, :]
    spread = math.sqrt(1 - correlation)
    inside = special.ndtr((edge - shift) / spread) - special.ndtr((-edge - shift) / spread)
    outside = -np.expm1(k * np.log(np.maximum(inside, 1e-300)))
    return float(min(1.0, chance @ (outside @ weight)))


def critical(k: int, degrees: float, correlation: float, level: float = LEVEL) -> float:
    """Return what the largest |t| of k exceeds by chance with probability 1 - level."""
    lowest, highest = (float(stats.t.isf((1 - level) / (2 * many), degrees)) for many in (1, k))  # to Bonferroni's
    if k == 1:
        return lowest

    def beyond(threshold: float) -> float:
        return exceeding(threshold, k, degrees, correlation) - (1 - level)

    return float(optimize.brentq(beyond, 0.9 * lowest, 1.1 * highest, xtol=1e-4))


@functools.cache
def _normal_nodes() -> tuple[Array, Array]:
    z, weight = np.polynomial.hermite_e.hermegauss(NODES)
    return z, weight / math.sqrt(2 * math.pi)


@functools.lru_cache(maxsize=256)
def _noise_nodes(degrees: float) -> tuple[Array, Array]:
    """Return values of the estimated by the true standard deviation and their probabilities, denser near zero."""
    x, weight = np.polynomial.legendre.leggauss(NODES)
    v = (x + 1) / 2
    return np.sqrt(stats.chi2.ppf(v**3, degrees) / degrees), weight / 2 * 3 * v**2


def seeds_needed(found: Comparison) -> int | None:
    """Return about how many seeds would tell such a difference in POWER of studies; None beyond MOST_SEEDS."""
    if not found.difference or not found.noise:
        return 2 if found.difference else None
    per_seed = found.degrees / (found.seeds - 1)

    def tells(n: int) -> bool:
        degrees, expected = per_seed * (n - 1), abs(found.difference) / found.noise * math.sqrt(n)
        threshold = critical(found.family, degrees, found.correlation, found.level)
        return power(expected, degrees, threshold) >= POWER

    numbers = range(2, MOST_SEEDS + 1)
    first = bisect.bisect_left(numbers, True, key=tells)
    return numbers[first] if first < len(numbers) else None


def power(expected: float, degrees: float, threshold: float) -> float:
    """Return how often |t| is above a threshold where t is expected at `expected`, by the noncentral t."""
    if expected > threshold + 10:  # where scipy's noncentral t has no number any more
        return 1.0
    return float(stats.nct.sf(threshold, degrees, expected))


def resolvable(n: int, k: int, level: float = LEVEL) -> float:
    """Return the smallest difference, in standard deviations of a run, that n seeds tell in POWER of studies.

    For equal noise and independent arms: a difference has twice a run's variance.
    """
    require_scipy()
    g, share = (1 + (k - 1) / 4) / k, SHARED if n > FEW else SHARED_OF_FEW
    degrees = (n - 1) / (1 - (2 * share - share**2) * (1 - g))
    threshold = critical(k, degrees, 0.5, level)
    expected = optimize.brentq(lambda t: power(t, degrees, threshold) - POWER, 0.0, threshold + 10)
    return float(expected * math.sqrt(2 / n))


def pairing(values: Any) -> Pairing | None:
    """Measure how alike arms are over seeds, values (arms, n); None with fewer than two whole seeds or arms."""
    require_scipy()
    table = np.asarray(values, dtype=np.float64)
    table = table[:, np.isfinite(table).all(0)]
    arms, n = table.shape
    if arms < 2 or n < 2:
        return None
    rest = table - table.mean(1, keepdims=True)  # what is left without the arms' means, (arms, n)
    blocks = arms * (rest.mean(0) ** 2).sum() / (n - 1)
    error = ((rest - rest.mean(0)) ** 2).sum() / ((n - 1) * (arms - 1))
    deviations = table.std(1, ddof=1)
    ratio = float(deviations.max() / deviations.min()) if deviations.min() else math.inf
    if error <= 1e-12 * blocks or error == 0:  # arms that move as one
        return Pairing(1.0, 1.0, 1.0, 1.0 if not deviations.max() else ratio)
    quotient, degrees = blocks / error, (n - 1, (n - 1) * (arms - 1))
    tail = (1 - LEVEL) / 2
    edges = quotient / stats.f.isf(tail, *degrees), quotient * stats.f.isf(tail, *degrees[::-1])
    low, middle, high = ((f - 1) / (f + arms - 1) for f in (edges[0], quotient, edges[1]))
    return Pairing(float(middle), float(low), float(high), ratio)


def p_values(noise: Noise, family: int) -> Array:
    """Return each variant's p-value, (k), where `family` of them share the error rate."""
    errors = np.sqrt(noise.variance / np.maximum(noise.seeds, 1))
    found = []
    for difference, error, degrees in zip(noise.difference, errors, noise.degrees, strict=True):
        t = abs(difference) / error if error else math.inf * abs(difference)
        found.append(exceeding(t, family, degrees, float(noise.correlation)) if t == t else 1.0)
    return np.array(found)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation of what is finite; NaN where that is too little."""
    found = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    mean = float(found.mean()) if len(found) else math.nan
    return mean, float(found.std(ddof=1)) if len(found) > 1 else math.nan
