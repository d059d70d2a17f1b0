"""Laws of scaling through losses that follow one, and through some that follow none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from kiara_cli.core.lab.scaling import scale
from kiara_cli.errors import KiaraError

COMPUTE = 1e12 * np.array([1.0, 3.0, 9.0, 27.0, 81.0])


def losses(
    compute: NDArray[np.float64], noise: float = 0.0, floor: float = 1.2, seed: int = 0
) -> NDArray[np.float64]:
    exact = floor + 2.0 * (compute / 1e12) ** -0.3
    return np.asarray(exact[:, None] * np.exp(noise * np.random.default_rng(seed).normal(size=(len(compute), 3))))


def test_a_law_is_found_and_predicts_the_largest_size_and_the_next() -> None:
    found = scale(COMPUTE[::-1], losses(COMPUTE, 1e-5)[::-1])  # in any order
    assert found.law.slope == pytest.approx(0.3, rel=0.02)
    assert found.law.floor == pytest.approx(1.2, rel=0.02)
    assert found.check.compute == COMPUTE[-1]
    assert found.check.measured == pytest.approx(found.check.loss, rel=1e-3)
    assert found.next.compute == pytest.approx(3 * COMPUTE[-1])
    assert found.next.loss == pytest.approx(losses(np.array([3 * COMPUTE[-1]]))[0, 0], rel=1e-3)
    assert scale(COMPUTE, losses(COMPUTE, 1e-5), following=1e15).next.compute == 1e15


def test_the_largest_size_has_no_part_in_its_own_prediction() -> None:
    given, other = losses(COMPUTE, 0.001), losses(COMPUTE, 0.001)
    other[-1] *= 0.9
    one, two = scale(COMPUTE, given).check, scale(COMPUTE, other).check
    assert (one.loss, one.holds, two.holds) == (pytest.approx(two.loss), True, False)


def test_intervals_hold_a_new_size_in_most_studies() -> None:
    held = 0
    for seed in range(40):
        found = scale(COMPUTE, losses(COMPUTE, 0.005, seed=seed))
        new = losses(np.array([found.next.compute]), 0.005, seed=1000 + seed).mean()
        held += found.next.low <= new <= found.next.high
    assert held >= 34


def test_three_sizes_have_no_floor_and_the_report_says_so() -> None:
    found = scale(COMPUTE[:3], losses(COMPUTE[:3], 1e-4, floor=0.0))
    assert found.law.floor == 0
    assert found.law.slope == pytest.approx(0.3, rel=0.02)
    assert found.check.measured == pytest.approx(found.check.loss, rel=1e-3)
    assert "cannot be told from the slope" in found.notes[0]


@pytest.mark.parametrize(
    ("compute", "given", "wrong"),
    [
        (COMPUTE[:2], losses(COMPUTE[:2]), "too few for a law"),
        (np.array([1e12, 1e12, 3e12]), losses(COMPUTE[:3]), "2 sizes of different compute"),
        (COMPUTE, losses(COMPUTE)[::-1], "does not fall with compute"),
        (COMPUTE, losses(COMPUTE)[:, :1], "the noise is unknown"),
    ],
)
def test_what_no_law_fits_is_one_line(compute: NDArray[np.float64], given: NDArray[np.float64], wrong: str) -> None:
    with pytest.raises(KiaraError, match=wrong):
        scale(compute, given)


def test_doubtful_laws_are_noted_and_missing_runs_left_out() -> None:
    bumpy = losses(COMPUTE, 1e-3)
    bumpy[2] = bumpy[1] + 0.01
    bumpy[0, 0] = math.nan
    assert any("does not fall from every size" in note for note in scale(COMPUTE, bumpy).notes)
    near = 1e12 * np.array([1.0, 1.2, 1.5, 1.9])
    assert any("1.9 times the compute" in note for note in scale(near, losses(near, 1e-3)).notes)
