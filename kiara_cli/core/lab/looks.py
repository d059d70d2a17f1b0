"""Stopping variants early by a rule that was fixed beforehand, so that the error rate stays what it is said to be.

In: the numbers of seeds at which a study is looked at, fixed before its first run, and what was measured so far. Out:
which variants have an answer, at which look.

With L looks, each has the L-th part of the error rate (Bonferroni): a variant that is told from the baseline at a
look is done. A difference that matters may be declared, too: a variant of which the interval at a look holds no such
gain is given up. Giving up never makes a false discovery more likely. What was decided stays decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.lab import statistics
from kiara_cli.core.lab.statistics import LEVEL, Array, Comparison
from kiara_cli.errors import KiaraError


@dataclass(frozen=True)
class Decision:
    """A variant at the last look that it was part of; `stops`: it gets no more seeds."""

    seeds: int
    comparison: Comparison | None
    stops: bool
    hopeless: bool = False  # given up, as it cannot gain what was declared to matter


def level_of(looks: Sequence[int]) -> float:
    """Return the level of each interval: that of a study by the number of its looks."""
    return 1 - (1 - LEVEL) / max(1, len(looks))


def check(looks: Sequence[int], origin: str) -> None:
    """Raise KiaraError for looks that are no rising numbers of at least two seeds."""
    if list(looks) != sorted(set(looks)) or any(seeds < 2 for seeds in looks):
        raise KiaraError(f"{origin}: looks={list(looks)} do not rise from at least 2 seeds", "write looks: [3, 5, 8]")


def decide(
    values: Array,
    looks: Sequence[int],
    worth: float | None = None,
    equal_noise: bool = False,
    done: NDArray[np.bool_] | None = None,
) -> list[Decision]:
    """Decide on each variant, values (k + 1, n), after every look of which all runs are `done` (None: all of them).

    `worth` is the difference that matters, as a positive number; lower values are better. A diverged run is done, and
    its value NaN.
    """
    k = len(values) - 1
    decided = [Decision(0, None, stops=False)] * k
    for look in looks:
        open_ = [arm for arm in range(k) if not decided[arm].stops]
        arms = [0, *(arm + 1 for arm in open_)]
        if not open_ or look > values.shape[1] or (done is not None and not done[arms, :look].all()):
            break
        rows = values[arms, :look]
        compared = statistics.compare(rows, level_of(looks), family=k, equal_noise=equal_noise)
        for arm, comparison in zip(open_, compared, strict=True):
            decided[arm] = _decision(look, comparison, worth)
    return decided


def _decision(look: int, comparison: Comparison | None, worth: float | None) -> Decision:
    if comparison is None:
        return Decision(look, None, stops=False)
    hopeless = worth is not None and comparison.low > -worth and not comparison.told
    return Decision(look, comparison, stops=comparison.told or hopeless, hopeless=hopeless)
