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
    local_size: int = 1  # processes on its machine, which share its cores
    restarts: int = 0  # times that torchrun has started the processes again, as one of them had died

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0


ALONE = World(0, 1, 0)


def world(environment: Mapping[str, str]) -> World:
    """Read what torchrun sets for each process that it starts: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE.

    Raises KiaraError where they are not numbers or contradict each other.
    """
    if "WORLD_SIZE" not in environment or "RANK" not in environment:
        return ALONE
    usual = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    found = {name: environment.get(name, value) for name, value in usual.items()}
    said, remedy = " ".join(f"{name}={value}" for name, value in found.items()), "start the processes with torchrun"
    try:
        this = World(*map(int, (*found.values(), environment.get("TORCHELASTIC_RESTART_COUNT", "0"))))
    except ValueError:
        raise KiaraError(f"{said} are no numbers", remedy) from None
    if not (0 <= this.rank < this.size and 0 <= this.local_rank < this.size and 1 <= this.local_size <= this.size):
        raise KiaraError(f"{said} name no process of a group", remedy)
    return this
