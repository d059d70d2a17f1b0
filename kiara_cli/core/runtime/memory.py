"""Memory that a step frees, kept for the next step: it needs as much again.

In: nothing. Out: a process whose allocator gives nothing back to the system until it ends.
"""

from __future__ import annotations

import ctypes
import sys

# of glibc's mallopt(3)
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
NEVER = 2**31 - 1
PAD = 64 << 20  # bytes asked for at a time (a guess)


def keep_freed_memory() -> bool:
    """Stop glibc from returning large blocks, whose pages would be handed out and cleared anew each time.

    That is 4 to 10 % of a training step on a CPU. It is for steps that are all of the same sizes. Where sizes vary,
    as with the number of targets in conversations, holes add up: 5 GB after 1,000 steps of the default model.
    Return whether that was possible: other systems are left alone.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return all(mallopt(name, value) for name, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, NEVER), (TOP_PAD, PAD)))
