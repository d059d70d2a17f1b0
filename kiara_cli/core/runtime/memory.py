"""How much memory this process may have: of the machine, of its control groups, of its own limit.

In: what the system says. Out: `Memory`, in bytes; None is what the system does not say (macOS and Windows: what is
free, Windows also how much there is).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kiara_cli.core.runtime.control_groups import CGROUPS, PROC, Group, groups, text_of

MEMINFO = Path("/proc/meminfo")
UNLIMITED = 1 << 60  # version 1 writes a number near 2**63 for no limit


@dataclass(frozen=True)
class Memory:
    """`total`: of the machine; `limit`: the least that this process is held to, by what `limited_by` says;
    `available`: what it can still take without swapping or being killed."""

    total: int | None
    limit: int | None
    limited_by: str | None
    available: int | None

    @property
    def most(self) -> int | None:
        """What this process could have on a machine that does nothing else."""
        return min((amount for amount in (self.total, self.limit) if amount is not None), default=None)


def read_memory(proc: Path = PROC, cgroups: Path = CGROUPS, meminfo: Path = MEMINFO) -> Memory:
    """Ask the system; a tenth of a millisecond."""
    total, free = _machine(meminfo)
    limits = [*_group_limits(proc, cgroups), *_own_limit()]
    rest = [limit - used for limit, used, _ in limits if used is not None]
    available = None if free is None else max(0, min([free, *rest]))
    limit, _, name = min(limits, key=lambda each: each[0], default=(None, None, None))
    return Memory(total, limit, name, available)


def _machine(meminfo: Path) -> tuple[int | None, int | None]:
    """Return how many bytes the machine has and how many are free or easily freed."""
    values = _numbers(text_of(meminfo))
    if "MemTotal" in values:
        return 1024 * values["MemTotal"], 1024 * values.get("MemAvailable", values.get("MemFree", 0))
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    except (AttributeError, ValueError, OSError):  # Windows
        return None, None


def _group_limits(proc: Path, cgroups: Path) -> Iterator[tuple[int, int | None, str]]:
    """Yield each limit of a control group with what is used of it: files that are merely cached do not count."""
    for group in groups("memory", proc, cgroups):
        limit = _number(group, "memory.limit_in_bytes", "memory.max")
        if limit is not None and limit < UNLIMITED:
            used = _number(group, "memory.usage_in_bytes", "memory.current")
            cached = _numbers(group.read("memory.stat", "memory.stat"))
            easily_freed = cached.get("total_inactive_file" if group.version == 1 else "inactive_file", 0)
            yield limit, None if used is None else max(0, used - easily_freed), "a control group (container or job)"


def _own_limit() -> Iterator[tuple[int, int | None, str]]:
    try:
        import resource
    except ImportError:  # Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        yield limit, None, "ulimit -v"


def _number(group: Group, of_1: str, of_2: str) -> int | None:
    text = group.read(of_1, of_2) or ""
    return int(text) if text.isdecimal() else None  # "max"


def _numbers(text: str | None) -> dict[str, int]:
    """Return the numbers of lines such as `MemTotal: 16 kB` and `inactive_file 16`."""
    rows = (line.replace(":", " ").split() for line in (text or "").splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
