"""SIGINT, SIGTERM and SIGHUP ask long work to stop at the next safe point; a second one stops it at once.

SIGHUP means that the terminal is gone; what is written there after that is lost. The system sends it, and the shell
once more, so that a second SIGHUP means nothing. Where it was ignored at the start (nohup), it stays ignored.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGINT = signal.SIGINT
SIGHUP: int | None = getattr(signal, "SIGHUP", None)  # not on Windows
SHOW_CURSOR = b"\x1b[?25h\n"
_received: list[int] = []


@contextmanager
def watched(patient: bool = False) -> Iterator[Callable[[], bool]]:
    """Within this block, yield a function that says whether a signal has asked to stop.

    With `patient` a second one means no more than the first: torchrun hands a signal on that the terminal sent too.
    """
    _received.clear()
    terminals = [number for number in (1, 2) if os.isatty(number)]

    def handle(number: int, frame: FrameType | None) -> None:
        if number == SIGHUP:
            let_go(terminals)
        elif _received and not patient:
            if os.isatty(2):
                os.write(2, SHOW_CURSOR)  # a live panel had hidden it
            os._exit(128 + number)  # files are replaced atomically, so whatever is on disk is whole
        _received.append(number)

    asking = [signal.SIGINT, signal.SIGTERM]
    if SIGHUP is not None and signal.getsignal(SIGHUP) != signal.SIG_IGN:
        asking.append(signal.Signals(SIGHUP))
    before = {number: signal.signal(number, handle) for number in asking}
    try:
        yield lambda: bool(_received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def let_go(terminals: list[int]) -> None:
    """Connect the numbers of terminals that are gone to nothing: to write there would be an error."""
    for number in terminals:
        if not os.isatty(number):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def received() -> int | None:
    """Return the signal that asked to stop, if one did."""
    return _received[0] if _received else None
