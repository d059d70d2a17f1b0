"""Several processes that work on one thing, as torchrun would start them, without its start: forks of this one.

In: how many, and a function of a `World`. Out: what it returns in each; or how the process ended, and what it said.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiara_cli.core.runtime.parallel import World
from kiara_cli.core.runtime.ranks import joined


@dataclass(frozen=True)
class Ended:
    """How one process ended: its status (of a signal: minus its number), what it returned and what it wrote."""

    status: int
    value: Any
    said: str


def start(
    size: int, work: Callable[[World], Any], inside: bool = True, **environment: str
) -> Callable[[], list[Ended]]:
    """Begin `work` in so many processes, as members of a group if `inside`; return a function that waits for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(size):
        said, value = Path(f"rank-{rank}.txt"), Path(f"rank-{rank}.pickle")
        value.unlink(missing_ok=True)
        if not (child := os.fork()):
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(size)}
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), **environment}
            _run(World(rank, size, rank, size), work, inside, said, value)
        children.append((child, said, value))
    return lambda: [_ended(*child) for child in children]


def together(size: int, work: Callable[[World], Any]) -> list[Any]:
    """Return what `work` returns in each of so many processes, all of which have to end well."""
    ended = start(size, work)()
    assert [one.status for one in ended] == [0] * size, "\n".join(one.said for one in ended)
    return [one.value for one in ended]


def _run(world: World, work: Callable[[World], Any], inside: bool, said: Path, value: Path) -> None:
    status = 1
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(output, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    try:
        if inside:
            with joined(world):
                found = work(world)
        else:
            found = work(world)
        value.write_bytes(pickle.dumps(found))
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:  # noqa: BLE001 - the test reads what it was
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _ended(child: int, said: Path, value: Path) -> Ended:
    _, code = os.waitpid(child, 0)
    status = -os.WTERMSIG(code) if os.WIFSIGNALED(code) else os.WEXITSTATUS(code)
    found = pickle.loads(value.read_bytes()) if value.is_file() else None
    return Ended(status, found, said.read_text())
