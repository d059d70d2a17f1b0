"""metrics.jsonl, read: whatever a kill, a full disk or another program left in it.

In: the file's path. Out: its records, how many lines are none, and the best evaluation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class History:
    """The records of a run in their order, and the number of lines that could not be read."""

    rows: tuple[Row, ...]
    damaged: int = 0

    @property
    def best(self) -> Row | None:
        """Return the evaluation with the lowest loss, the first of equals."""
        measured = [row for row in self.rows if _is_number(row.get("val_loss"))]
        return min(measured, key=lambda row: float(row["val_loss"]), default=None)

    @property
    def last(self) -> Row:
        """Return the newest record of a step; empty where there is none."""
        return next((row for row in reversed(self.rows) if "loss" in row), {})


def read_history(path: Path) -> History:
    """Read a metrics.jsonl; one that is not there has no records."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return History(())
    lines = [line for line in text.split("\n") if line.strip()]
    rows = [row for line in lines if (row := _row(line)) is not None]
    return History(tuple(rows), len(lines) - len(rows))


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return row if isinstance(step, int) and not isinstance(step, bool) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def numbers(rows: Iterable[Row], key: str) -> list[tuple[Row, float]]:
    """Return the records that have a finite number under `key`, and the number."""
    return [(row, float(row[key])) for row in rows if _is_number(row.get(key))]
