from __future__ import annotations

import pytest

from kiara_cli.core.train.meter import WINDOW, Meter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


def test_the_rate_is_tokens_by_seconds_of_training(clock: Clock) -> None:
    meter = Meter()
    meter.start()
    meter.add(300)
    clock.now += 2.0
    assert meter.mark() == pytest.approx(150.0)


def test_time_between_stop_and_start_does_not_count(clock: Clock) -> None:
    meter = Meter()
    clock.now += 50.0
    for _ in range(3):
        meter.start()
        meter.add(100)
        clock.now += 1.0
        meter.stop()
        clock.now += 99.0
        meter.stop()  # a second stop changes nothing
    assert meter.mark() == pytest.approx(100.0)


def test_the_rate_is_that_of_the_last_marks_alone(clock: Clock) -> None:
    meter = Meter()
    meter.start()
    clock.now += 1000.0  # a slow first interval: compiling, say
    meter.add(1)
    meter.mark()
    for _ in range(WINDOW):
        meter.add(100)
        clock.now += 1.0
        rate = meter.mark()
    assert rate == pytest.approx(100.0)


def test_a_mark_without_time_or_tokens_is_a_number(clock: Clock) -> None:
    meter = Meter()
    assert meter.mark() == 0.0
    meter.start()
    meter.add(5)
    assert meter.mark() > 0.0


def test_a_lap_counts_all_time_since_the_one_before(clock: Clock) -> None:
    meter = Meter()
    clock.now += 3.0
    assert meter.lap() == 3.0
    meter.start()
    clock.now += 1.0
    meter.stop()
    clock.now += 4.0
    assert meter.lap() == 5.0
    assert meter.lap() == 0.0
