"""The terminal between two prompts: how wide it is, keys that are pressed meanwhile, and Ctrl-C.

In: nothing. Out: contexts to write replies in. What is typed ahead is neither shown in the middle of the reply nor
lost: it is kept for the next prompt. It is read while the reply comes: a terminal holds 4 kB, and no Ctrl-C gets
past them.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

PASTE_BEGINS, PASTE_ENDS = b"\x1b[200~", b"\x1b[201~"


def columns() -> int:
    """Return how wide the terminal is now."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def mark_pastes(yes: bool) -> None:
    """Ask the terminal to mark a paste as one, so that its newlines send nothing. Each prompt ends by not asking."""
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[?2004h" if yes else "\x1b[?2004l")
        sys.stdout.flush()


class Ahead:
    """What is typed while no prompt reads it, as bytes."""

    def __init__(self, number: int | None = None) -> None:
        self._number = number  # of the terminal's file; None: there is none
        self.typed = b""

    def read(self, seconds: float = 0.0) -> bool:
        """Take what has been typed, or is within some seconds; say whether there was anything."""
        if self._number is None or not select.select([self._number], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._number, 65_536)
        except OSError:  # the terminal is gone
            data = b""
        if not data:
            self._number = None
        self.typed += data
        return bool(data)

    def take(self) -> bytes:
        """Return what has been typed since the last time, with the rest of a paste that has begun."""
        while self.read(0.0 if self.typed.count(PASTE_BEGINS) == self.typed.count(PASTE_ENDS) else 1.0):
            pass
        typed, self.typed = self.typed, b""
        return typed


@contextmanager
def quiet() -> Iterator[Ahead]:
    """Within this block what is typed is not shown, but can be read."""
    try:
        import termios

        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
    except (ImportError, OSError, ValueError, termios.error):  # Windows, or no terminal
        yield Ahead()
        return
    silent = termios.tcgetattr(number)
    silent[0] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR)  # Enter stays what the prompt takes for Enter
    silent[3] &= ~(termios.ECHO | termios.ICANON)
    silent[3] |= termios.NOFLSH  # Ctrl-C stops the reply and drops nothing
    silent[6][termios.VMIN], silent[6][termios.VTIME] = 1, 0
    termios.tcsetattr(number, termios.TCSANOW, silent)
    try:
        yield Ahead(number)
    finally:
        termios.tcsetattr(number, termios.TCSANOW, before)
        mark_pastes(False)


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
