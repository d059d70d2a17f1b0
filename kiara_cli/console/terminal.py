"""The terminal while a reply is written: how wide it is, keys that are pressed meanwhile, and Ctrl-C.

In: nothing. Out: contexts to write a reply in. What is typed ahead is neither shown in the middle of the reply nor
lost: it waits in the terminal for the next prompt.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

PASTE_ON, PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"  # a paste is marked as one, so that its newlines send nothing


def columns() -> int:
    """Return how wide the terminal is now."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


@contextmanager
def quiet() -> Iterator[None]:
    """Within this block what is typed is not shown, and waits to be read."""
    try:
        import termios

        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
    except (ImportError, OSError, ValueError, termios.error):  # Windows, or no terminal
        yield
        return
    silent = termios.tcgetattr(number)
    silent[0] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR)  # Enter stays what the prompt takes for Enter
    silent[3] &= ~(termios.ECHO | termios.ICANON)
    silent[3] |= termios.NOFLSH  # Ctrl-C stops the reply and drops nothing
    silent[6][termios.VMIN], silent[6][termios.VTIME] = 1, 0
    termios.tcsetattr(number, termios.TCSANOW, silent)
    sys.stdout.write(PASTE_ON)
    sys.stdout.flush()
    try:
        yield
    finally:
        termios.tcsetattr(number, termios.TCSANOW, before)
        sys.stdout.write(PASTE_OFF)
        sys.stdout.flush()


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Within this block, yield a function that says whether Ctrl-C was pressed; a second one interrupts at once."""
    asked: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
