"""The statistics of studies, held to scipy's own tests and to studies that are simulated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.interpolate import RegularGridInterpolator

from kiara_cli.core.lab import looks, statistics
from kiara_cli.core.lab.statistics import (
    Noise,
    compare,
    critical,
    estimate,
    exceeding,
    fairness,
    inequality,
    pairing,
    pooled,
)

K = 4
STUDIES = 4000
Array = NDArray[np.float64]


def test_with_one_variant_it_is_the_paired_t_test() -> None:
    values = np.random.default_rng(3).normal(size=(2, 6)) + np.arange(6)
    (found,) = compare(values)
    oracle = stats.ttest_rel(values[1], values[0])
    assert found is not None
    assert found.p == pytest.approx(oracle.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)))


@pytest.mark.parametrize(("n", "k"), [(3, 2), (5, 4), (8, 6)])
def test_critical_values_and_p_values_are_dunnetts(n: int, k: int) -> None:
    arms = list(np.random.default_rng(k).normal(size=(k + 1, n)))
    oracle = stats.dunnett(*arms[1:], control=arms[0], random_state=np.random.default_rng(0))
    degrees = (n - 1) * (k + 1)
    p = [exceeding(abs(float(t)), k, degrees, 0.5) for t in oracle.statistic]
    assert p == pytest.approx(oracle.pvalue, abs=1e-3)
    interval = oracle.confidence_interval(0.95)
    error = math.sqrt(2 * np.mean([arm.var(ddof=1) for arm in arms]) / n)
    assert critical(k, degrees, 0.5) * error == pytest.approx((interval.high[0] - interval.low[0]) / 2, rel=2e-3)


def test_tails_are_exact_where_probabilities_are_tiny() -> None:
    assert exceeding(30.0, 3, 8, 0.999) == pytest.approx(2 * stats.t.sf(30.0, 8), rel=0.2)
    assert 2 * stats.t.sf(30.0, 8) < exceeding(30.0, 3, 8, 0.5) < 3 * 2 * stats.t.sf(30.0, 8)


def test_pooled_noise_is_that_of_the_model_of_arms_and_seeds() -> None:
    values = np.random.default_rng(5).normal(size=(4, 5)) + np.arange(5)
    arms, seeds = (index.ravel() for index in np.indices(values.shape))
    design = np.column_stack([np.eye(4)[arms], np.eye(5)[seeds][:, 1:]])
    fitted, residuals, *_ = np.linalg.lstsq(design, values.ravel(), rcond=None)
    found = pooled(values)
    assert found.degrees[0] == 20 - np.linalg.matrix_rank(design)
    assert found.difference == pytest.approx(fitted[1:4] - fitted[0])
    assert found.variance == pytest.approx(2 * residuals / found.degrees)


class Thresholds:
    """critical() for K variants between nodes of a small grid, for thousands of studies at once."""

    def __init__(self) -> None:
        self.r, self.x = np.linspace(0, 1, 6), np.linspace(1 / 60, 0.7, 8)
        grid = [[np.log(critical(K, 1 / x, r)) for x in self.x] for r in self.r]
        self.at = RegularGridInterpolator((self.r, self.x), grid, method="cubic")

    def told(self, noise: Noise) -> NDArray[np.bool_]:
        x = np.clip(1 / noise.degrees, self.x[0], self.x[-1])
        r = np.broadcast_to(noise.correlation[:, None], x.shape)
        threshold = np.exp(self.at(np.stack([r, x], -1)))
        return np.abs(noise.difference) > threshold * np.sqrt(noise.variance / noise.seeds)


@pytest.fixture(scope="module")
def thresholds() -> Thresholds:
    return Thresholds()


def simulated(n: int, deviations: list[float]) -> Array:
    rng = np.random.default_rng(n)
    own = rng.normal(size=(STUDIES, K + 1, n)) * np.array(deviations)[None, :, None]
    return own + rng.normal(size=(STUDIES, 1, n))


@pytest.mark.parametrize("n", [3, 5, 8])
@pytest.mark.parametrize(
    "deviations",
    [[1, 1, 1, 1, 1], [1, 1, 1, 1, 2], [2, 1, 1, 1, 1], [1, 1.5, 2, 2.5, 3]],
    ids=["equal", "one variant is noisier", "the baseline is noisier", "all are different"],
)
def test_nothing_is_told_where_there_is_nothing_in_95_of_100_studies(
    thresholds: Thresholds, n: int, deviations: list[float]
) -> None:
    """4 to 6 %, and as much as 4,000 studies may be off by chance; intervals hold as often as nothing is told."""
    rate = thresholds.told(estimate(simulated(n, deviations))).any(1).mean()
    assert 0.034 < rate < 0.068


def test_noise_that_is_pooled_though_it_is_unequal_tells_what_is_not_there(thresholds: Thresholds) -> None:
    assert thresholds.told(pooled(simulated(5, [3, 1, 1, 1, 1]))).any(1).mean() > 0.12


def test_declared_equal_noise_tells_smaller_differences_and_unequal_noise_is_not_pooled() -> None:
    values = np.random.default_rng(7).normal(size=(5, 5))
    shared, own = compare(values, equal_noise=True)[0], compare(values)[0]
    assert shared is not None
    assert own is not None
    assert (shared.pooled, own.pooled) == (True, False)
    assert shared.degrees > own.degrees
    values[2] *= 30
    assert fairness(values) < 0.01
    assert [found.pooled for found in compare(values, equal_noise=True) if found] == [False] * 4
    noisy_baseline = np.random.default_rng(7).normal(size=(5, 5)) * np.array([[30], [1], [1], [1], [1]])
    assert fairness(noisy_baseline) < 0.01
    assert inequality(np.zeros((3, 4))) == 1


def test_the_seeds_that_are_proposed_tell_the_difference_in_four_of_five_studies(thresholds: Thresholds) -> None:
    values = np.random.default_rng(1).normal(size=(K + 1, 5))
    values[1] += 1.2
    found = compare(values)[0]
    assert found is not None
    assert found.seeds_needed is not None
    rng = np.random.default_rng(9)
    studies = rng.normal(size=(STUDIES, K + 1, found.seeds_needed)) * found.noise / math.sqrt(2)
    studies[:, 1] += found.difference
    assert 0.7 < thresholds.told(estimate(studies))[:, 0].mean() < 0.9


def test_arms_that_are_the_same_in_every_seed_are_not_told_apart() -> None:
    same = np.tile(np.arange(4.0), (3, 1))
    for found in compare(same):
        assert found is not None
        assert (found.p, found.low, found.high, found.seeds_needed) == (1.0, 0.0, 0.0, None)
    shifted = same.copy()
    shifted[1] += 1
    assert [found.p for found in compare(shifted) if found] == [0.0, 1.0]


def test_missing_measurements_widen_intervals_and_single_ones_have_none() -> None:
    values = np.random.default_rng(4).normal(size=(4, 5))
    whole, holes = compare(values), values.copy()
    holes[2, 1], holes[3, 1:] = math.nan, math.nan
    found = compare(holes)
    assert found[2] is None
    assert [each.seeds for each in found if each] == [5, 4]
    for hole, full in zip(found[:2], whole[:2], strict=True):
        assert hole is not None
        assert full is not None
        assert hole.degrees < full.degrees


def test_the_correlation_of_paired_seeds_is_measured_with_its_interval() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        values = rng.normal(size=(4, 5)) + rng.normal(size=(1, 5))
        found = pairing(values)
        assert found is not None
        assert found.low <= found.correlation <= found.high
        inside += found.low <= 0.5 <= found.high
    assert 0.91 < inside / 300 < 0.99
    assert pairing(np.zeros((3, 1))) is None


def test_looking_several_times_tells_too_much_unless_the_looks_were_declared() -> None:
    rng = np.random.default_rng(0)
    ruled = peeked = 0
    for _ in range(400):
        values, at = rng.normal(size=(2, 8)), (3, 5, 8)
        (decision,) = looks.decide(values, at)
        ruled += decision.comparison is not None and decision.comparison.told
        seen = (compare(values[:, :look])[0] for look in at)
        peeked += any(found is not None and found.told for found in seen)
    assert ruled / 400 < 0.075
    assert peeked / 400 > 0.085


def test_a_variant_that_is_told_or_cannot_gain_what_matters_gets_no_more_seeds() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 8)) * 0.01
    values[1] -= 1.0
    values[2] += 0.004
    decided = looks.decide(values[:, :3], (3, 8), worth=0.5)
    assert [each.stops for each in decided] == [True, True, True]
    assert [each.hopeless for each in decided] == [False, True, True]
    assert [each.stops for each in looks.decide(values[:, :3], (3, 8))] == [True, False, False]
    done = np.ones((4, 8), dtype=bool)
    done[1, 2] = False
    assert [each.seeds for each in looks.decide(values, (3, 8), done=done)] == [0, 0, 0]
    later = looks.decide(values, (3, 8), worth=0.5)
    assert [each.seeds for each in later] == [3, 3, 3]


def test_a_missing_scipy_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "stats", None)
    with pytest.raises(statistics.KiaraError, match="kiara-slm\\[lab\\]"):
        compare(np.zeros((2, 3)))


def test_an_interval_leaves_out_zero_where_its_p_value_tells_and_nowhere_else() -> None:
    rng = np.random.default_rng(6)
    for n in (3, 5, 5, 8):
        values = rng.normal(size=(K + 1, n))
        values[1:] += rng.normal(scale=4, size=(K, 1))
        for found in compare(values):
            assert found is not None
            assert (not found.low < 0 < found.high) == found.told
            edge = exceeding(found.margin / found.noise * math.sqrt(n), K, found.degrees, found.correlation)
            assert edge == pytest.approx(0.05, abs=1e-4)
