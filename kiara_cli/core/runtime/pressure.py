"""Whether other programs use the cores that this process computes on.

In: what the system says. Out: for how long this process's threads have waited for a core, and how long cores had
nothing to do. On Linux both are exact; elsewhere the first is estimated from how often a thread had to make room.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from kiara_cli.core.runtime.threads import allowed_cpus

SLICE = 0.003  # seconds that another thread runs where this one has to make room (Linux's usual slice)
IDLE, WAITING_FOR_DISK, STOLEN = 4, 5, 8  # columns of a processor's line in /proc/stat


@dataclass(frozen=True)
class Pressure:
    """Seconds since some beginning, summed up over threads or cores; None where they are not known."""

    at: float
    waited: float | None
    free: float | None

    def since(self, before: Pressure) -> tuple[float | None, float | None]:
        """Return how many cores' time was waited for and was free between two readings."""
        wall = max(1e-9, self.at - before.at)
        waited, free = (
            None if last is None or first is None else max(0.0, last - first) / wall
            for first, last in ((before.waited, self.waited), (before.free, self.free))
        )
        return waited, free


def read_pressure(proc: Path = Path("/proc")) -> Pressure:
    """Ask the system; a tenth of a millisecond."""
    at = time.perf_counter()
    free, stolen = _processors(proc)
    waited = _queued(proc)
    return Pressure(at, None if waited is None else waited + stolen, free)


def _queued(proc: Path) -> float | None:
    """Return how long threads stood in a queue for a core: the second number of each, in nanoseconds."""
    total, known = 0, False
    with contextlib.suppress(OSError):
        for task in os.listdir(proc / "self/task"):
            with contextlib.suppress(OSError, ValueError, IndexError):  # a thread that has just ended
                with open(proc / "self/task" / task / "schedstat", encoding="ascii") as file:
                    total += int(file.read().split()[1])
                known = True
    if known:
        return total / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw * SLICE


def _processors(proc: Path) -> tuple[float | None, float]:
    """Return how long the cores of this process had nothing to do, and how long a host took them away."""
    try:
        lines = [line.split() for line in (proc / "stat").read_text(encoding="ascii").splitlines()]
        mine = {f"cpu{number}" for number in allowed_cpus()}
        ticks = [(int(f[IDLE]) + int(f[WAITING_FOR_DISK]), int(f[STOLEN])) for f in lines if f and f[0] in mine]
    except (OSError, ValueError, IndexError):
        return None, 0.0
    second = os.sysconf("SC_CLK_TCK")
    return (sum(free for free, _ in ticks) / second if ticks else None), sum(stolen for _, stolen in ticks) / second
