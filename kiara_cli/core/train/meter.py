"""The training loop's own clock: where a step's time goes, tokens per second, and how near the machine's peak.

In: which phase begins, and how many tokens were trained on. Out: a `Reading`. Nothing waits for the device until a
reading is taken: on a CPU the clock is the wall's, on CUDA events are dropped into the stream and read later.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

WINDOW = 20  # readings that the rate is averaged over

Phase: TypeAlias = Literal["data", "forward", "backward", "optimizer", "evaluation", "saving"]
TRAINING: tuple[Phase, ...] = ("data", "forward", "backward", "optimizer")


@dataclass(frozen=True)
class Reading:
    """What the meter shows: rates over the last few readings, seconds a step by phase since the last one."""

    tokens_per_second: float
    flops_per_second: float
    fraction_of_peak: float | None  # of the machine's measured rate of matrix products; None if not measured
    seconds: dict[str, float]  # per step, by phase of training


class Meter:
    """Count tokens against the time of the training phases; evaluation and saving are left out of the rate."""

    def __init__(
        self, flops_per_token: float = 0.0, peak: float | None = None, device: torch.device | None = None
    ) -> None:
        self._flops_per_token, self.peak = flops_per_token, peak
        self._on_cuda = device is not None and device.type == "cuda"
        self._phase: Phase | None = None
        self._since: Any = None
        self._open: list[tuple[Phase, Any, Any]] = []  # phases whose events have not been read yet
        self._spent: dict[Phase, float] = {}  # seconds since the last reading
        self._marks: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=WINDOW)
        self._busy, self._tokens, self._steps = 0.0, 0, 0
        self._lap = time.perf_counter()

    def begin(self, phase: Phase | None) -> None:
        """End the phase that is going on and begin another, or none."""
        now = self._stamp()
        if self._phase is not None:
            if self._on_cuda:
                self._open.append((self._phase, self._since, now))
            else:
                self._spent[self._phase] = self._spent.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now

    def add(self, tokens: int) -> None:
        """Count a step that was trained on this many tokens."""
        self._tokens += tokens
        self._steps += 1

    def read(self) -> Reading:
        """Close the interval since the last reading."""
        self.begin(self._phase)
        spent = self._settle()
        training = sum(spent.get(phase, 0.0) for phase in TRAINING)
        self._busy += training
        first_busy, first_tokens = self._marks[0]
        self._marks.append((self._busy, self._tokens))
        rate = (self._tokens - first_tokens) / max(1e-9, self._busy - first_busy)
        flops = rate * self._flops_per_token
        steps, self._steps = max(1, self._steps), 0
        seconds: dict[str, float] = {phase: spent.get(phase, 0.0) / steps for phase in TRAINING}
        return Reading(rate, flops, flops / self.peak if self.peak else None, seconds)

    def lap(self) -> float:
        """Return the seconds of wall time since the last lap, evaluation and saving included."""
        now = time.perf_counter()
        elapsed, self._lap = now - self._lap, now
        return elapsed

    def _stamp(self) -> Any:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _settle(self) -> dict[Phase, float]:
        """Return the seconds by phase since the last call; on CUDA this waits for the stream, once."""
        if self._open:
            torch.cuda.synchronize()
            for phase, first, last in self._open:
                self._spent[phase] = self._spent.get(phase, 0.0) + first.elapsed_time(last) / 1000
            self._open.clear()
        spent, self._spent = self._spent, {}
        return spent
