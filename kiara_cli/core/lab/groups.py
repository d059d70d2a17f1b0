"""Repeats: runs that differ in the seed alone, and how far their results are apart.

In: records. Out: groups with the mean, spread and range of what was measured.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.lab.compare import Known, compare, known_run
from kiara_cli.core.lab.records import Record
from kiara_cli.errors import KiaraError

MANY = 60  # groups whose settings are not read to tell them apart


@dataclass(frozen=True)
class Spread:
    """Mean, sample standard deviation (None of one value) and range of n values."""

    n: int
    mean: float
    sd: float | None
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Summarize values; None of none."""
        if not values:
            return None
        sd = statistics.stdev(values) if len(values) > 1 else None
        return cls(len(values), statistics.fmean(values), sd, min(values), max(values))


@dataclass(frozen=True)
class Group:
    """Runs of one definition but for the seed, those first that began first."""

    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        return self.records[0].name

    @property
    def counted(self) -> list[Record]:
        """The runs that count: those that ended, one of each seed, the newest of equal ones."""
        return list({record.seed: record for record in self.records if record.ended}.values())

    @property
    def loss(self) -> Spread | None:
        return Spread.of([record.val_loss for record in self.counted if record.val_loss is not None])

    @property
    def bits_per_byte(self) -> Spread | None:
        return Spread.of([record.bits_per_byte for record in self.counted if record.bits_per_byte is not None])

    @property
    def spreads(self) -> dict[str, Spread | None]:
        """Name the spreads as --json does."""
        return {"val_loss": self.loss, "bits_per_byte": self.bits_per_byte}


def group(records: Iterable[Record]) -> list[Group]:
    """Group runs by all but the seed, in the order in which the groups began; unknown ones stand alone."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.created or "", record.name)):
        found[record.group or f"alone: {record.name}"].append(record)
    return [Group(tuple(members)) for members in found.values()]


def group_of(name: str, groups: Iterable[Group]) -> Group | None:
    """Return the group that a run is in."""
    return next((each for each in groups if any(record.name == name for record in each.records)), None)


def tell_apart(groups: Sequence[Group], root: Path) -> list[str]:
    """Say of each group what its settings change to the first one's; nothing where there are too many to read."""
    if not 1 < len(groups) <= MANY:
        return ["" for _ in groups]
    first = _known(groups[0], root)
    return ["" if first is None else _said(first, _known(each, root)) for each in groups]


def _known(group: Group, root: Path) -> Known | None:
    try:
        return known_run(Run(root, root / group.name))
    except KiaraError:
        return None


def _said(first: Known, known: Known | None) -> str:
    if known is None or known.name == first.name:
        return ""
    found = compare(known, first)
    said = [*found.unfair, *(change.short for change in found.changes)]
    return ", ".join(said) or ", ".join(found.cautions)
