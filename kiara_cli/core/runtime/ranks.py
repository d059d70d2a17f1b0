"""What the processes of a group tell each other, so that they do one thing and fail together.

In: an array or words of each process. Out: those of all, in the order of their ranks. A process alone gets its own
back. Every call is one that all processes make; whoever cannot go on says so in it, and then none goes on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.runtime.parallel import World
from kiara_cli.errors import KiaraError

PATIENCE = timedelta(days=30)  # one process may work long while the others wait; one that has died is noticed at once
Value = TypeVar("Value")
Item = TypeVar("Item")
LOST = ("gloo", "Connection closed by peer", "Connection reset")  # in what torch says of a process that has gone
FAILED = -1  # sent in place of a length


class FailedElsewhere(Exception):
    """Another process of the group, number `rank`, cannot go on, and says why itself; None: it has died."""

    def __init__(self, rank: int | None) -> None:
        super().__init__("another process of the group failed")
        self.rank = rank


class Agreed(KiaraError):
    """What all processes raise at the same point."""


@contextlib.contextmanager
def joined(world: World) -> Iterator[None]:
    """Be one of the group within this block. A KiaraError in one process ends the block in all of them.

    Raises FailedElsewhere in every process but the first of those that failed, and KiaraError where there is no
    group to join.
    """
    if world.size == 1:
        yield
        return
    import torch.distributed as dist

    try:
        dist.init_process_group(
            "gloo", store=_meeting(world), rank=world.rank, world_size=world.size, timeout=PATIENCE
        )
    except (ValueError, RuntimeError) as error:
        raise KiaraError(
            f"process {world.rank} of {world.size} cannot join the others: {str(error).splitlines()[0]}",
            "start them with torchrun, which says where they meet; or give each its share: --shard I/N",
        ) from None
    try:
        yield
        _lengths(world, 0)
    except KiaraError:
        if not dist.is_initialized():
            raise
        if (first := _first_failed(world)) != world.rank:
            raise FailedElsewhere(first) from None
        raise
    finally:
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()


def _meeting(world: World) -> Any:
    """Return where the processes meet.

    On one machine torchrun keeps the place when it starts them again, with what the dead have left there.
    """
    import torch.distributed as dist

    found = dist.rendezvous("env://", world.rank, world.size, timeout=PATIENCE)  # type: ignore[attr-defined]
    store, _, _ = next(iter(found))
    alone = world.local_size == world.size  # several machines count restarts each for itself, and meet anew
    return dist.PrefixStore(f"start {world.restarts}", store) if alone else store  # type: ignore[attr-defined]


def take_device(world: World) -> None:
    """Let each process of a machine compute on a CUDA device of its own, where there are several."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank % torch.cuda.device_count())


def gather(values: NDArray[Any], world: World) -> list[NDArray[Any]]:
    """Return the array (n,) of each process; they may differ in length and share their type."""
    if world.size == 1:
        return [values]
    import torch
    import torch.distributed as dist

    lengths = _lengths(world, len(values))
    raw = torch.zeros(max(lengths) * values.itemsize, dtype=torch.uint8)
    raw[: values.nbytes] = torch.from_numpy(np.frombuffer(values.tobytes(), np.uint8).copy())
    parts = [torch.empty_like(raw) for _ in lengths]
    with _noticing_deaths():
        dist.all_gather(parts, raw)
    return [
        np.frombuffer(part.numpy().tobytes(), values.dtype, length)
        for part, length in zip(parts, lengths, strict=True)
    ]


def add_up(values: NDArray[Any], world: World) -> NDArray[Any]:
    """Return the sum over all processes of an array, element by element, always added in the same order."""
    parts = gather(values.ravel(), world)
    total: NDArray[Any] = np.stack(parts).sum(0, dtype=values.dtype).reshape(values.shape)
    return total


def tell(value: Any, world: World) -> list[Any]:
    """Return the JSON value of each process."""
    raw = np.frombuffer(json.dumps(value).encode(), np.uint8)
    return [json.loads(part.tobytes()) for part in gather(raw, world)]


def from_first(world: World, make: Callable[[], Value]) -> Value:
    """Return the JSON value that the first process makes; the others wait for it."""
    made: Value = tell(make() if world.is_first else None, world)[0]
    return made


def first_then_others(world: World, make: Callable[[], Value]) -> Value:
    """Return what each process makes, the others once the first has: they find what it has left on disk."""
    if world.size == 1:
        return make()
    made = make() if world.is_first else None
    tell(None, world)
    return made if world.is_first else make()  # type: ignore[return-value]


def agreed(world: World, check: Callable[[], None]) -> None:
    """Check something in all processes; raise the KiaraError of the first one in which it fails in all of them."""
    failure: KiaraError | None = None
    try:
        check()
    except KiaraError as error:
        if world.size == 1:
            raise
        failure = error
    for said in tell(None if failure is None else [failure.cause, failure.remedy], world):
        if said is not None:
            raise Agreed(*said)


@contextlib.contextmanager
def failing_for_all(world: World) -> Iterator[None]:
    """Let the others notice an error inside this block that they do not have: they may wait for something else.

    Raises FailedElsewhere where another process has gone.
    """
    try:
        yield
    except (Agreed, FailedElsewhere):
        raise
    except BaseException as error:
        if world.size > 1:
            import torch.distributed as dist

            lost = isinstance(error, RuntimeError) and any(mark in str(error) for mark in LOST)
            if dist.is_initialized():
                dist.destroy_process_group()
            if lost or isinstance(error, dist.DistError):
                raise FailedElsewhere(None) from error
        raise


def in_step(items: Iterable[Item], world: World) -> Iterator[tuple[Item, bool]]:
    """Yield this process's share of items, and whether each counts.

    All processes get as many, as what is computed of them may need all processes: some get the last item once more.
    """
    number = -1
    for number, item in enumerate(items):
        if number % world.size == 0:
            spare = item
        if number % world.size == world.rank:
            yield item, True
    if number >= 0 and number % world.size < world.rank:
        yield spare, False


def _lengths(world: World, own: int, raising: bool = True) -> list[int]:
    """Exchange a length; raise FailedElsewhere if a process sends that it failed."""
    import torch
    import torch.distributed as dist

    found = [torch.zeros(1, dtype=torch.int64) for _ in range(world.size)]
    with _noticing_deaths():
        dist.all_gather(found, torch.tensor([own]))
    lengths = [int(one) for one in found]
    if raising and FAILED in lengths:
        raise FailedElsewhere(lengths.index(FAILED))
    return lengths


def _first_failed(world: World) -> int:
    """Send that this process failed; return the first one that does, itself where others have died."""
    try:
        return _lengths(world, FAILED, raising=False).index(FAILED)
    except FailedElsewhere:
        return world.rank


@contextlib.contextmanager
def _noticing_deaths() -> Iterator[None]:
    """Raise FailedElsewhere where a process has gone without a word."""
    try:
        yield
    except RuntimeError as error:
        raise FailedElsewhere(None) from error
