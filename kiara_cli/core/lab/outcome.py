"""What came of a run that was held to a baseline.

In: the run's folder, and its baseline's. Out: an `Outcome`: both results, how they may be compared, the noise if it
is known from repeats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.lab.compare import BITS, Comparison, Known, compare, known_run
from kiara_cli.core.lab.groups import Spread, group, group_of
from kiara_cli.core.lab.records import read_records
from kiara_cli.errors import KiaraError

# Student's t at 97.5 %, by degrees of freedom; beyond them its expansion in 1 / degrees (Fisher and Cornish, 1960).
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}


@dataclass(frozen=True)
class Outcome:
    """Two results in the figure in which they can be compared; `noise` is the spread of the baseline's repeats."""

    ours: Known
    theirs: Known
    comparison: Comparison
    change: str
    noise: Spread | None

    @property
    def values(self) -> tuple[float, float] | None:
        """Both results, ours first; None where one has none."""
        found = [known.best.get(self.comparison.figure) for known in (self.ours, self.theirs)]
        return (float(found[0]), float(found[1])) if None not in found else None  # type: ignore[arg-type]

    @property
    def usual(self) -> float | None:
        """By how much two single runs of the baseline's settings differ at most in 19 of 20 cases, if it is known."""
        if self.noise is None or self.noise.sd is None:
            return None
        degrees = self.noise.n - 1
        student = STUDENT.get(degrees, 1.960 + 2.372 / degrees + 2.823 / degrees**2)
        return student * math.sqrt(2) * self.noise.sd


def outcome(run: Run, root: Path) -> Outcome | None:
    """Hold a run to the baseline that its run.json names; None where there is none, or it is gone."""
    facts = run.facts()
    baseline, change = facts.get("baseline"), facts.get("change")
    if not isinstance(baseline, dict) or not isinstance(change, dict):
        return None
    try:
        ours, theirs = known_run(run), known_run(Run(root, root / str(baseline.get("run"))))
    except KiaraError:
        return None
    comparison = compare(ours, theirs)
    found = group_of(theirs.name, group(read_records(root)))
    noise = None if found is None else found.bits_per_byte if comparison.figure == BITS else found.loss
    return Outcome(ours, theirs, comparison, str(change.get("name")), noise)
