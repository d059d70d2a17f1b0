"""What the hooks of core/hooks/statistics.py recorded of a run: layer by layer, over its steps.

In: a run. Out: a `Watched` for each kind of number, and figures and a page of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kiara_cli.core.checkpoint.history import numbers
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.lab import figures
from kiara_cli.core.lab.page import Part, Svg, page
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEGINS = "stat_"
TITLES = {
    "rms": "root mean square of activations",
    "zero": "share of activations near zero",
    "dead": "share of channels near zero in all of a batch",
    "gradient": "norm of the gradient before clipping",
    "update": "an update as a share of the weights' norm",
}
DECADES = {"rms", "gradient", "update"}  # drawn by their logarithm: layers differ by powers of ten


@dataclass(frozen=True)
class Watched:
    """One kind of number: of each place its values by step."""

    what: str
    places: dict[str, list[tuple[int, float]]]

    @property
    def title(self) -> str:
        return TITLES.get(self.what, self.what)

    @property
    def by_decades(self) -> bool:
        """Whether pictures show the logarithm."""
        return self.what in DECADES and all(value > 0 for course in self.places.values() for _, value in course)

    def drawn(self, value: float) -> float:
        """Return how high a value stands in a picture."""
        return math.log10(value) if self.by_decades else value


def watched(run: Run) -> list[Watched]:
    """Read what was recorded, in the order of the model. Raises KiaraError for a run without statistics."""
    rows = run.history().rows
    found: dict[str, Watched] = {}
    for key in dict.fromkeys(key for row in rows for key in row if key.startswith(BEGINS)):
        what, _, place = key.removeprefix(BEGINS).partition("/")
        if values := [(int(row["step"]), value) for row, value in numbers(rows, key)]:
            found.setdefault(what, Watched(what, {})).places[place] = values
    if not found:
        raise KiaraError(
            f"run {run.name} recorded no statistics",
            "train with hooks.a.use=activation_statistics hooks.u.use=update_statistics",
        )
    return list(found.values())


def figure(kind: Watched) -> Figure:
    """Draw one kind of number as colours: a row for each place, a column for each step. Raises KiaraError."""
    steps = sorted({step for values in kind.places.values() for step, _ in values})
    matrix = []
    for values in kind.places.values():
        known = {step: kind.drawn(value) for step, value in values}
        matrix.append([known.get(step, math.nan) for step in steps])
    title = f"{kind.title}{', log10' if kind.by_decades else ''}"
    return figures.heatmap(matrix, list(kind.places), [f"{step:,}" for step in steps], title)


def statistics_page(run: Run, kinds: Sequence[Watched]) -> str:
    """Write the page: a picture of each kind. Raises KiaraError."""
    parts: list[Part] = [Svg(figures.to_svg(figure(kind)), kind.title) for kind in kinds]
    return page(f"{run.name}: activations, gradients and updates", parts)
