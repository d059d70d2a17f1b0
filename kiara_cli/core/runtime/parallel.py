"""Which of several processes this one is, as torchrun says.

In: the environment that a command was started in. Out: a `World`; `ALONE` where there is one process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kiara_cli.errors import KiaraError


@dataclass(frozen=True)
class World:
    """One of `size` processes that work on one thing: number `rank` of all, `local_rank` of those on its machine."""

    rank: int
    size: int
    local_rank: int

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0


ALONE = World(0, 1, 0)


def world(environment: Mapping[str, str]) -> World:
    """Read RANK, WORLD_SIZE and LOCAL_RANK, which torchrun sets for each process that it starts.

    Raises KiaraError where they are not numbers or contradict each other.
    """
    if "WORLD_SIZE" not in environment or "RANK" not in environment:
        return ALONE
    found = {name: environment.get(name, "0") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    said, remedy = " ".join(f"{name}={value}" for name, value in found.items()), "start the processes with torchrun"
    try:
        this = World(int(found["RANK"]), int(found["WORLD_SIZE"]), int(found["LOCAL_RANK"]))
    except ValueError:
        raise KiaraError(f"{said} are no numbers", remedy) from None
    if not (0 <= this.rank < this.size and 0 <= this.local_rank < this.size):
        raise KiaraError(f"{said} name no process of a group", remedy)
    return this
