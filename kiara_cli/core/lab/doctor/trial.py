"""A trial in a process of its own: what it breaks is not this one.

In: lines of Python, seconds. Out: what they printed, or what went wrong in one line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

ILLEGAL = "it uses instructions that this processor does not have"


@dataclass(frozen=True)
class Outcome:
    """`printed` on success; else `failure`, or neither where the time was too short."""

    printed: str = ""
    failure: str | None = None
    finished: bool = True


class Trial:
    """A running trial."""

    def __init__(self, code: str, environment: Mapping[str, str]) -> None:
        lines = f"import sys\nsys.path[:] = {sys.path!r}\n{code}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", lines],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # what it starts ends with it
        )

    def outcome(self, seconds: float) -> Outcome:
        """Wait for it, and end it after so many seconds."""
        try:
            out, err = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.end()
            return Outcome(finished=False)
        status = self._process.returncode
        if status == 0:
            return Outcome(out.strip())
        said = [line.strip() for line in err.splitlines() if line.strip()]
        return Outcome(failure=_signal(-status) if status < 0 else said[-1][:200] if said else f"status {status}")

    def end(self) -> None:
        """End it and all that it started."""
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                if hasattr(os, "killpg"):
                    os.killpg(self._process.pid, signal.SIGKILL)
                else:
                    self._process.kill()
        self._process.communicate()


def _signal(number: int) -> str:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"{name}: {ILLEGAL}" if name == "SIGILL" else f"the process ended with {name}"
