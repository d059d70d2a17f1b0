"""One process at a time for what only one can do: a lock file, held as long as the work lasts.

In: the path of a lock file. Out: whether the lock is held; it is not where there are no locks. The system gives a
lock back when its process ends, however it ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def claimed(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Hold the lock file; yield whether it is held: false where the system or the folder has no locks.

    `waiting` is called once where another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = _lock(path, waiting)
    try:
        yield held is not None
    finally:
        if held is not None:
            path.unlink(missing_ok=True)  # while it is held: whoever waits for it notices and tries again
            os.close(held)


def _lock(path: Path, waiting: Callable[[], None]) -> int | None:
    """Return the descriptor of the locked file; None where there are no locks."""
    if fcntl is None:
        return None
    told = False
    while True:
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    waiting()
                told = True
                fcntl.flock(held, fcntl.LOCK_EX)
        except OSError:
            os.close(held)
            path.unlink(missing_ok=True)
            return None
        except BaseException:
            os.close(held)
            raise
        if _is_at(held, path):
            return held
        os.close(held)


def _is_at(held: int, path: Path) -> bool:
    """Whether the open file is the one that stands at a path now."""
    try:
        return os.path.samestat(os.fstat(held), os.stat(path))
    except FileNotFoundError:
        return False
