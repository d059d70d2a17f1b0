"""Fewer threads while other programs use the cores, and more again: decided between two steps, by measuring.

In: how long each step takes. Out: the number of threads of the next one. Threads that share a step wait for the last
of them, so where one has lost its core all do: beside one busy program on two cores, training with both keeps a third
of its rate and with one thread 0.6 (measured). Nothing is tried on a machine that is quiet, and what is tried in vain
is tried again so seldom that it costs less than a hundredth of the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.runtime.pressure import Pressure, read_pressure

SHARED = 0.2  # cores' time that threads wait for one: above it others use it too (one busy program: 0.5 to 1)
FREE = 0.6  # cores' time without work, from which on one more thread has a place
SLOWER = 1.5  # times the best pace, where the system does not say who waits
BETTER = 1.05  # times the pace before: what a trial must reach to be kept
SHORT, LONG = 0.05, 0.25  # seconds of several steps, and of a single one, that are enough to know the pace
LOOK = 0.2  # seconds between two looks at the machine
WAIT, MOST_WAIT = 2.0, 120.0  # seconds to the next trial; doubled after each in vain
LIMIT = 2.0  # seconds, and four steps, after which a trial without steps to compare ends
BUDGET = 0.01  # share of the time that trials in vain may cost


@dataclass(frozen=True)
class Change:
    """From the next step on there are other threads. `stays`: it was measured to be the better number."""

    before: int
    threads: int
    stays: bool
    reason: str


@dataclass
class Direction:
    """Trials of fewer threads, or of more: when the next one may be, and how many in a row were in vain."""

    next: float = 0.0
    failures: int = 0

    def failed(self, now: float, lost: float) -> None:
        self.failures += 1
        self.next = now + max(min(WAIT * 2**self.failures, MOST_WAIT), lost / BUDGET)


@dataclass
class Trial:
    """Another number of threads, until its pace is known; `threads` and `pace` are those before."""

    threads: int
    pace: float
    kind: Hashable
    direction: Direction
    began: float
    reason: str


@dataclass
class Window:
    """Steps of one kind, until it is known how long one takes."""

    kind: Hashable = None
    steps: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, kind: Hashable) -> float | None:
        """Add a step; return the seconds of one once that is known. Another kind begins anew."""
        if kind != self.kind:
            self.kind, self.steps, self.seconds = kind, 0, 0.0
        self.steps, self.seconds = self.steps + 1, self.seconds + seconds
        if self.seconds < (LONG if self.steps == 1 else SHORT):
            return None
        pace = self.seconds / self.steps
        self.steps, self.seconds = 0, 0.0
        return pace


class Threads:
    """How many threads compute: `count`, from 1 to `most`, or always `most`."""

    def __init__(
        self,
        most: int,
        adapts: bool = True,
        patience: float = LOOK,  # seconds that a core is shared before anything is tried
        look: Callable[[], Pressure] = read_pressure,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.most, self.count, self.patience = most, most, patience
        self.adapts = adapts and most > 1
        self.changes = 0  # so far
        self.kind: Hashable = 0  # of the step: only steps of one kind are compared; None: this one with no other
        self.change: Change | None = None  # that the latest step brought
        self._look, self._clock = look, clock
        self._window, self._best = Window(), math.inf
        self._fewer, self._more = Direction(), Direction()
        self._trial: Trial | None = None
        self._skip = False  # the first step on other threads makes and wakes them
        self._seen: Pressure | None = None
        self._shared_since: float | None = None

    @classmethod
    def of(cls, runtime: Runtime, patience: float = LOOK) -> Threads:
        """Return as many as a runtime has, which may become fewer if it says so."""
        return cls(runtime.threads, runtime.adaptive, patience)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Run a step on as many threads as there are now, and decide about the next one."""
        self.change = None
        if not self.adapts:
            yield
            return
        if torch.get_num_threads() != self.count:
            torch.set_num_threads(self.count)
        began = self._clock()
        yield
        self.change = self.took(self._clock() - began)

    def took(self, seconds: float) -> Change | None:
        """Take in how long a step took; return the change if there is one."""
        trial = self._trial
        if trial is not None and self._clock() - trial.began > LIMIT + 4 * trial.pace:
            return self._back(trial, trial.pace)
        if self.kind is None or (trial is not None and self.kind != trial.kind):
            return None
        if self._skip:
            self._skip = False
            return None
        pace = self._window.add(seconds, self.kind)
        if pace is None:
            return None
        return self._watch(pace) if trial is None else self._judge(trial, pace)

    def _watch(self, pace: float) -> Change | None:
        """Look at the machine; begin a trial if there is a reason for one."""
        now = self._clock()
        if self._seen is not None and now - self._seen.at < LOOK:
            return None
        before, self._seen = self._seen, self._look()
        if before is None:
            return None
        waited, free = self._seen.since(before)
        if waited is None:  # nothing is known but the pace
            self._best = min(pace, self._best)
            waited = float(pace > SLOWER * self._best)
        if waited < SHARED:
            self._shared_since = None
        elif self._shared_since is None:
            self._shared_since = before.at
        shared = self._shared_since is not None and now - self._shared_since >= self.patience
        if shared and self.count > 1 and now >= self._fewer.next:
            return self._try(self._less(waited), pace, self._fewer, "another program uses a core")
        if self.count < self.most and now >= self._more.next and (free is None or free >= FREE):
            return self._try(self.count + max(1, int(free or 1)), pace, self._more, "a core is free again")
        return None

    def _less(self, waited: float) -> int:
        """Return how many threads to try: a core that another program uses makes its thread wait half of the time.

        After a trial in vain it is half as many, and then one.
        """
        tries = (self.count - max(1, round(2 * waited)), self.count // 2, 1)
        return max(1, tries[self._fewer.failures % len(tries)])

    def _try(self, threads: int, pace: float, direction: Direction, reason: str) -> Change:
        self._trial = Trial(self.count, pace, self.kind, direction, self._clock(), reason)
        return self._set(min(threads, self.most), pace, reason)

    def _judge(self, trial: Trial, pace: float) -> Change | None:
        """Keep what is tried if it is faster; otherwise go back."""
        if trial.pace <= BETTER * pace:
            return self._back(trial, pace)
        self._trial, self._seen, self._shared_since, self._best = None, None, None, math.inf
        self._fewer, self._more = Direction(), Direction(next=self._clock() + WAIT)
        return Change(trial.threads, self.count, True, trial.reason)

    def _back(self, trial: Trial, pace: float) -> Change:
        """End a trial in vain, and wait before the next one for as long as it cost many times over."""
        self._trial, self._seen, self._shared_since = None, None, None
        now = self._clock()
        trial.direction.failed(now, (now - trial.began) * max(0.0, 1 - trial.pace / pace))
        return self._set(trial.threads, pace, "it was no faster")

    def _set(self, threads: int, pace: float, reason: str) -> Change:
        change = Change(self.count, threads, False, reason)
        self.changes += 1
        self.count, self._skip = threads, pace < LONG
        self._window = Window()
        return change
