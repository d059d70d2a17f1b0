"""The control groups of Linux that this process is in: what limits its share of a machine.

In: the name of a controller (`cpu`, `memory`). Out: the folders in which its limits stand, of version 1 and 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC, CGROUPS = Path("/proc/self"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Group:
    """A folder whose files are named as in this version of control groups."""

    folder: Path
    version: int

    def read(self, of_1: str, of_2: str) -> str | None:
        """Return what stands in the file that a limit has in this version, or None."""
        return text_of(self.folder / (of_1 if self.version == 1 else of_2))


def groups(controller: str, proc: Path = PROC, cgroups: Path = CGROUPS) -> Iterator[Group]:
    """Yield the process's own group and all above it, those that are not there as well; a limit of any holds.

    In a container the path may be the host's, of which only the top is to be seen here.
    """
    for line in (text_of(proc / "cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        own = [part for part in path.split("/") if part not in ("", "..")]
        if not controllers:
            version, mounts = 2, [cgroups, cgroups / "unified"]
        elif controller in controllers.split(","):
            version, mounts = 1, [cgroups / controllers, cgroups / controller]
        else:
            continue
        for mount in mounts:
            for depth in range(len(own), -1, -1):
                yield Group(mount.joinpath(*own[:depth]), version)


def text_of(file: Path) -> str | None:
    """Return a small file's text without its line end, or None where there is none."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
