"""SIGINT and SIGTERM ask long work to stop at the next safe point; a second one stops it at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGINT = signal.SIGINT
SHOW_CURSOR = b"\x1b[?25h\n"
_received: list[int] = []


@contextmanager
def watched() -> Iterator[Callable[[], bool]]:
    """Within this block, yield a function that says whether a signal has asked to stop."""
    _received.clear()

    def handle(number: int, frame: FrameType | None) -> None:
        if _received:
            if os.isatty(2):
                os.write(2, SHOW_CURSOR)  # a live panel had hidden it
            os._exit(128 + number)  # files are replaced atomically, so whatever is on disk is whole
        _received.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(_received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def received() -> int | None:
    """Return the signal that asked to stop, if one did."""
    return _received[0] if _received else None
