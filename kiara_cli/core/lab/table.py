"""What a study has measured so far: one number for each arm and seed, read from the folders of its runs.

In: a `Study` and its folder. Out: a `Table`; NaN where there is no number, and why not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.checkpoint.history import Row
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.lab.statistics import Array
from kiara_cli.core.lab.study import MEASURES, Measure, Study, run_name

DONE = ("finished", "diverged")  # of runs: they have ended by themselves, and would end so again


@dataclass(frozen=True)
class Cell:
    """One run: how it stands, what was measured at its end, its evaluations and what it cost."""

    arm: str
    seed: int
    run: Run
    status: str  # as run.json says, or missing
    values: dict[str, float]  # of the last evaluation, by measure
    evaluations: tuple[Row, ...]
    facts: dict[str, Any]

    def fact(self, name: str) -> float:
        """Return a number of run.json; NaN where it has none."""
        value = self.facts.get(name)
        return float(value) if isinstance(value, int | float) else math.nan


@dataclass(frozen=True)
class Table:
    """All runs of a study, (arms, seeds)."""

    study: Study
    cells: tuple[tuple[Cell, ...], ...]
    values: Array  # of what is measured, NaN for what is not there, diverged or not finite

    @property
    def done(self) -> NDArray[np.bool_]:
        """Which runs have ended by themselves, (arms, seeds)."""
        return np.array([[cell.status in DONE for cell in row] for row in self.cells])

    def seeds_of(self, arm: int, *statuses: str) -> list[int]:
        """List the seeds with which an arm's runs stand so."""
        return [cell.seed for cell in self.cells[arm] if cell.status in statuses]


def table_of(study: Study, folder: Path) -> Table:
    """Read the runs of a study."""
    cells = tuple(tuple(_cell(arm.name, seed, folder) for seed in study.seeds) for arm in study.arms)
    values = [[cell.values.get(study.measure, math.nan) for cell in row] for row in cells]
    return Table(study, cells, np.array(values, dtype=np.float64))


def measured(run: Run, measure: Measure) -> float:
    """Return what a run measured at its end; NaN where it did not get there, or measured nothing finite."""
    return _values(run.history().rows, run.facts().get("status")).get(measure, math.nan)


def _cell(arm: str, seed: int, folder: Path) -> Cell:
    run = Run(folder, folder / run_name(arm, seed))
    facts, rows = run.facts(), run.history().rows
    status = run.status or "missing"
    evaluations = tuple(row for row in rows if "val_loss" in row)
    return Cell(arm, seed, run, status, _values(rows, status), evaluations, facts)


def _values(rows: tuple[Row, ...], status: str | None) -> dict[str, float]:
    evaluations = [row for row in rows if "val_loss" in row]
    if status != "finished" or not evaluations:
        return {}
    last = evaluations[-1]
    found = {measure: last.get(key) for measure, key in MEASURES.items()}
    numbers = {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
