from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.config.schema import TrainConfig
from kiara_cli.core.train.schedule import SCHEDULES, learning_rate

CONFIG = TrainConfig(lr=0.01, min_lr_ratio=0.1, warmup_steps=10)


def rates(schedule: str, total: int = 110) -> list[float]:
    """Return the rates after the warm-up of 10."""
    config = replace(CONFIG, schedule=schedule)  # type: ignore[arg-type]
    return [learning_rate(step, total, config) for step in range(10, total + 1)]


def test_a_constant_rate_stays() -> None:
    assert set(rates("constant")) == {0.01}


def test_a_linear_rate_falls_evenly_to_the_floor() -> None:
    falls = [before - after for before, after in pairwise(rates("linear"))]
    assert falls == pytest.approx([0.009 / 100] * 100)
    assert rates("linear")[-1] == pytest.approx(0.001)


def test_wsd_stays_and_then_falls_evenly_over_the_last_share() -> None:
    made = rates("wsd")
    assert made[:81] == pytest.approx([0.01] * 81)
    assert made[90] == pytest.approx((0.01 + 0.001) / 2)
    assert made[-1] == pytest.approx(0.001)
    never = replace(CONFIG, schedule="wsd", decay_share=0.0)
    assert learning_rate(110, 110, never) == 0.01


def test_the_rate_rises_linearly_to_the_highest_in_the_warm_up() -> None:
    rates = [learning_rate(step, 200, CONFIG) for step in range(1, 11)]
    assert rates == pytest.approx([0.001 * step for step in range(1, 11)])


def test_the_rate_then_falls_to_the_floor_at_the_last_update() -> None:
    rates = [learning_rate(step, 200, CONFIG) for step in range(10, 201)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 0.01
    assert rates[95] == pytest.approx((0.01 + 0.001) / 2)  # half way down the cosine
    assert rates[-1] == pytest.approx(0.001)


def test_a_warm_up_longer_than_a_tenth_of_the_run_is_cut_to_that() -> None:
    assert learning_rate(5, 50, CONFIG) == 0.01
    assert learning_rate(4, 50, CONFIG) == pytest.approx(0.008)


def test_a_run_of_one_step_ends_at_the_floor() -> None:
    assert learning_rate(1, 1, CONFIG) == pytest.approx(0.001)


@given(
    total=st.integers(1, 500),
    warmup=st.integers(0, 600),
    lr=st.floats(1e-6, 1.0),
    ratio=st.floats(0.0, 1.0),
    share=st.floats(0.0, 1.0),
    schedule=st.sampled_from(sorted(SCHEDULES)),
)
def test_the_rate_is_never_negative_nor_above_the_highest(
    total: int, warmup: int, lr: float, ratio: float, share: float, schedule: Any
) -> None:
    config = TrainConfig(lr=lr, min_lr_ratio=ratio, warmup_steps=warmup, schedule=schedule)
    step = 1 + round(share * (total - 1))
    assert 0.0 <= learning_rate(step, total, config) <= lr * (1 + 1e-9)
