"""Threads are fewer while other programs use the cores: simulated, as a test must not depend on the machine."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kiara_cli.core.runtime.adaptive import Change, Threads
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.runtime.pressure import Pressure, read_pressure

QUIET, BESIDE = {1: 0.6, 2: 1.0}, {1: 0.6, 2: 0.32}  # rates by threads: alone, and beside a busy program (measured)
STEPS = pytest.mark.parametrize(("seconds", "patience"), [(0.55, 1.0), (0.01, 1.0), (0.0005, 0.2)])


class Machine:
    """Two cores, and another program that uses one of them at times; what is known of that may be less."""

    def __init__(
        self,
        seconds: float,
        patience: float,
        busy: Callable[[float], bool],
        beside: dict[int, float] = BESIDE,
        knows: bool = True,
    ) -> None:
        self.seconds, self.busy, self.beside, self.knows = seconds, busy, beside, knows
        self.now, self.waited, self.free = 0.0, 0.0, 0.0
        self.random = random.Random(0)
        self.threads = Threads(2, True, patience, self.look, lambda: self.now)
        self.changes: list[Change] = []

    def look(self) -> Pressure:
        return Pressure(self.now, self.waited, self.free) if self.knows else Pressure(self.now, None, None)

    def rate(self, until: float) -> float:
        """Run steps; return the rate as a share of that of two threads alone."""
        began, steps = self.now, 0
        while self.now < until:
            count, busy = self.threads.count, self.busy(self.now)
            took = self.seconds / (self.beside if busy else QUIET)[count] * self.random.lognormvariate(0, 0.03)
            self.now, steps = self.now + took, steps + 1
            self.waited += took * (0.7 if busy and count == 2 else 0.02)
            self.free += took * (0.0 if busy else 2 - count)
            if (change := self.threads.took(took)) is not None:
                self.changes.append(change)
        return steps * self.seconds / (self.now - began)


@STEPS
@pytest.mark.parametrize("knows", [True, False])
def test_nothing_changes_on_a_quiet_machine(seconds: float, patience: float, knows: bool) -> None:
    machine = Machine(seconds, patience, lambda now: False, knows=knows)
    assert machine.rate(60) > 0.98
    assert not machine.changes


@STEPS
def test_beside_a_busy_program_one_thread_computes_until_it_ends(seconds: float, patience: float) -> None:
    machine = Machine(seconds, patience, lambda now: 20 < now < 60)
    assert machine.rate(20) > 0.98
    assert machine.rate(60) > 0.55
    assert machine.rate(120) > 0.95
    assert [(change.before, change.threads) for change in machine.changes if change.stays] == [(2, 1), (1, 2)]


@STEPS
def test_a_program_that_was_there_first_is_noticed_too(seconds: float, patience: float) -> None:
    machine = Machine(seconds, patience, lambda now: True)
    assert machine.rate(60) > 0.57


@STEPS
def test_where_the_system_says_nothing_the_pace_does(seconds: float, patience: float) -> None:
    machine = Machine(seconds, patience, lambda now: 20 < now < 60, knows=False)
    assert machine.rate(20) > 0.98
    assert machine.rate(60) > 0.5
    assert machine.rate(180) > 0.8


@STEPS
def test_trials_in_vain_cost_a_hundredth_of_the_time(seconds: float, patience: float) -> None:
    machine = Machine(seconds, patience, lambda now: True, beside={1: 0.4, 2: 0.7})
    assert machine.rate(300) > 0.98 * 0.7
    assert machine.threads.count == 2


def test_of_many_cores_one_that_another_program_uses_is_left_to_it() -> None:
    clock, waited = 0.0, 0.0
    threads = Threads(16, True, 0.2, lambda: Pressure(clock, waited, 0.0), lambda: clock)
    counts = []
    for _ in range(100):
        took = {16: 0.02, 15: 0.0107}.get(threads.count, 0.16 / threads.count)
        clock, waited = clock + took, waited + took * (0.5 if threads.count == 16 else 0.0)
        threads.took(took)
        counts.append(threads.count)
    assert set(counts) == {16, 15}
    assert counts[-1] == 15


def test_steps_of_another_kind_are_not_compared_and_end_no_trial_but_by_time() -> None:
    clock, waited = 0.0, 0.0
    threads = Threads(2, True, 0.2, lambda: Pressure(clock, waited, 0.0), lambda: clock)
    changes = []
    for step in range(1000):
        threads.kind = "first" if threads.count == 2 else ("second", None)[step % 2]
        clock, waited = clock + 0.01, waited + 0.007
        if (change := threads.took(0.01)) is not None:
            changes.append(change)
    assert [change.threads for change in changes[:2]] == [1, 2]
    assert not any(change.stays for change in changes)


def test_a_fixed_number_of_threads_is_left_alone() -> None:
    threads = Threads.of(Runtime(torch.device("cpu"), "fp32", 4))
    with threads.step():
        assert torch.get_num_threads() == 1  # as it was
    assert (threads.count, threads.change, threads.adapts) == (4, None, False)


def test_a_step_runs_on_as_many_threads_as_there_are_now() -> None:
    threads = Threads.of(Runtime(torch.device("cpu"), "fp32", 3, adaptive=True))
    with threads.step():
        assert torch.get_num_threads() == 3


def test_what_the_system_knows_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kiara_cli.core.runtime.pressure.allowed_cpus", lambda: [0, 2])
    for name, text in {
        "stat": "cpu 1 1 1 1 1 1 1 1 0 0\n" + "".join(f"cpu{n} 1 1 1 {n}00 50 1 1 100 0 0\n" for n in (1, 2, 3)),
        "self/task/7/schedstat": "5 2000000000 9\n",
        "self/task/8/schedstat": "5 500000000 9\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    first = read_pressure(tmp_path)
    assert (first.waited, first.free) == (2.5 + 1.0, 2.5)  # of a hundred ticks a second
    assert Pressure(first.at + 2, 4.5, 3.0).since(first) == pytest.approx((0.5, 0.25))
    nothing = read_pressure(tmp_path / "nowhere")
    assert nothing.free is None
    assert Pressure(1, 1, 1).since(Pressure(0, None, None)) == (None, None)
