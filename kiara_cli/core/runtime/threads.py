"""How many threads this process may use: what affinity, CPU quota, OpenMP and the processor's cores allow.

In: what Linux says in /proc, /sys and the control groups. Out: numbers, and in words what limits them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiara_cli.core.runtime.control_groups import CGROUPS, PROC, Group, groups, text_of

CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Allowance:
    """How many threads may compute, and what limits them; None: nothing but the physical cores."""

    threads: int
    limit: str | None


def allowed_threads(
    openmp: int | None = None, cpus: Path = CPUS, proc: Path = PROC, cgroups: Path = CGROUPS
) -> Allowance:
    """Return how many threads should compute now: one a physical core, and fewer where something allows fewer.

    `openmp` is the number of threads that OpenMP was started with, where it is known: OMP_NUM_THREADS is in it.
    """
    cores, quota = physical_cores(allowed_cpus(), cpus), cpu_quota(proc, cgroups)
    limits: list[tuple[int, str | None]] = [(cores, None)]
    if quota is not None:
        limits.append((math.ceil(quota), f"a CPU quota of {quota:g} core{'s' if quota != 1 else ''}"))
    if openmp is not None:
        limits.append((openmp, "OMP_NUM_THREADS or the program that Kiara runs in"))
    threads, limit = min(limits, key=lambda each: each[0])
    return Allowance(max(1, threads), limit)


def allowed_workers(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Return how many threads that share nothing may work: one a hardware thread, at most the quota."""
    cpus, quota = len(allowed_cpus()), cpu_quota(proc, cgroups)
    return max(1, cpus if quota is None else min(cpus, math.ceil(quota)))


def allowed_cpus() -> list[int]:
    """Return the numbers of the hardware threads that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def physical_cores(allowed: Sequence[int], cpus: Path = CPUS) -> int:
    """Count cores, two hardware threads of one core as one."""
    return max(1, len({text_of(cpus / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed}))


def cpu_quota(proc: Path = PROC, cgroups: Path = CGROUPS) -> float | None:
    """Return how many cores' time the control groups of this process give it, the least of all above it; or None."""
    return min(_quotas(proc, cgroups), default=None)


def _quotas(proc: Path, cgroups: Path) -> Iterator[float]:
    """Yield every quota from the process's own groups up."""
    for group in groups("cpu", proc, cgroups):
        quota = _quota_of_2(group) if group.version == 2 else _quota_of_1(group)
        if quota is not None:
            yield quota


def _quota_of_2(group: Group) -> float | None:
    quota, _, period = (text_of(group.folder / "cpu.max") or "max").partition(" ")
    return _share(quota, period or "100000")


def _quota_of_1(group: Group) -> float | None:
    quota, period = (text_of(group.folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return _share(quota or "-1", period or "100000")


def _share(quota: str, period: str) -> float | None:
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return share if share > 0 else None
