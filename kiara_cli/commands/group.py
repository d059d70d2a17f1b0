"""A command that several processes run together, as torchrun starts them: one speaks for all."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import typer

from kiara_cli.errors import KiaraError

GRACE = 10.0  # seconds to end in, after an error

if TYPE_CHECKING:
    from kiara_cli.core.runtime.parallel import World


@contextlib.contextmanager
def group() -> Iterator[World]:
    """Join the processes that torchrun started; alone there is nothing to join. Only the first prints.

    Where one fails, all exit with its status, and one says why. Raises KiaraError.
    """
    from kiara_cli.core.runtime.parallel import world

    this = world(os.environ)
    if this.size == 1:
        yield this
        return
    from kiara_cli.core.runtime.ranks import FailedElsewhere, joined

    inside = False
    try:
        with contextlib.ExitStack() as stack:
            if not this.is_first:  # what goes wrong is said after the block, where the streams are themselves again
                silent = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (log handlers keep it)
                stack.enter_context(contextlib.redirect_stdout(silent))
                stack.enter_context(contextlib.redirect_stderr(silent))
            stack.enter_context(joined(this))
            inside = True
            yield this
    except FailedElsewhere as error:
        end_soon(2)
        if error.rank is None and this.is_first:
            raise KiaraError(
                "another process of the group has died", "see what torchrun says of it, and run the same again"
            ) from None
        raise typer.Exit(2) from None
    except typer.Exit:
        raise
    except BaseException:
        if inside:  # who never joined is waited for by nobody
            end_soon(1)
        raise


def end_soon(status: int) -> None:
    """See that this process ends: a thread that waits for the others could keep it, and they wait for its end."""
    timer = threading.Timer(GRACE, os._exit, [status])
    timer.daemon = True
    timer.start()


def restarts(environment: Mapping[str, str]) -> int:
    """Return how many times torchrun has started its processes again, as one of them had died."""
    said = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    return int(said) if said.isdecimal() else 0


def launch(environment: Mapping[str, str]) -> str:
    """Name a start of torchrun: by its --rdzv-id, or where none was given by its process."""
    named = environment.get("TORCHELASTIC_RUN_ID", "none")
    return named if named != "none" else f"{platform.node()}:{os.getppid()}"


def refuse_in_group(this: World, option: str, remedy: str = "run it in one process, without torchrun") -> None:
    """Raise KiaraError if there are several processes and an option that is for one."""
    if this.size > 1:
        raise KiaraError(f"{option} and {this.size} processes", remedy)
