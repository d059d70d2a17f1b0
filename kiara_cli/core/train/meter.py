"""The training loop's own clock: tokens per second and how long is left."""

from __future__ import annotations

import time
from collections import deque

WINDOW = 20  # logged steps that the rate is averaged over


class Meter:
    """Count tokens against time spent in training steps; evaluation and saving are left out."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=WINDOW)
        self._busy = 0.0
        self._tokens = 0
        self._started: float | None = None
        self._lap = time.perf_counter()

    def start(self) -> None:
        """Start, or go on, counting time."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Stop counting time until `start`."""
        if self._started is not None:
            self._busy += time.perf_counter() - self._started
            self._started = None

    def add(self, tokens: int) -> None:
        """Count tokens that were trained on."""
        self._tokens += tokens

    def mark(self) -> float:
        """Close an interval and return tokens per second over the last few of them."""
        busy = self._busy
        if self._started is not None:
            busy += time.perf_counter() - self._started
        first_busy, first_tokens = self._marks[0]
        self._marks.append((busy, self._tokens))
        return (self._tokens - first_tokens) / max(1e-9, busy - first_busy)

    def lap(self) -> float:
        """Return the seconds of wall time since the last lap, evaluation and saving included."""
        now = time.perf_counter()
        elapsed, self._lap = now - self._lap, now
        return elapsed
