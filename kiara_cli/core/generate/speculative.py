"""Draft the next tokens by prompt lookup: where the last few ids occurred before, what followed may follow again.

In: the ids so far. Out: a draft. The engine reads a draft in one pass and samples at each of its positions exactly
as it would have one by one, with the same randomness; it keeps the draft as far as it agrees with what was
sampled. So drafts change the speed, never the result (Saxena, 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 3  # ids that an earlier place must share with the end, at best and …
SHORTEST = 2  # … at least (both guesses)


def draft(ids: Sequence[int], length: int) -> list[int]:
    """Return at most `length` ids that followed the latest place that equals the end of the sequence.

    The latest one that enough ids follow, or the one that most do.
    """
    best: list[int] = []
    for n in range(LONGEST, SHORTEST - 1, -1) if length > 0 else ():
        end = list(ids[-n:])
        for start in range(len(ids) - n - 1, -1, -1):
            if ids[start] == end[0] and list(ids[start : start + n]) == end:
                best = max(best, list(ids[start + n : start + n + length]), key=len)
                if len(best) == length:
                    return best
        if best:
            return best
    return best
