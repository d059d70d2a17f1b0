"""Guess the next tokens from the text itself: where the last few stood before, what followed then may follow now.

In: the ids so far. Out: a draft. The engine reads a draft in one pass and samples at each of its positions exactly
as it would have one by one, with the same randomness; it keeps the draft as far as it agrees with what was
sampled. So drafts change the speed, never the text (prompt lookup: Saxena, 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 3  # ids that a place must have in common with the end of the text, at best and …
SHORTEST = 2  # … at least (both guesses)


def draft(ids: Sequence[int], length: int) -> list[int]:
    """Return at most `length` ids that followed the latest place that reads like the end of the text.

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
