"""Curves of runs as files.

In: series. Out: a figure, and a page with it, the runs' results and what differs between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kiara_cli.config.text import shown
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.lab import figures
from kiara_cli.core.lab.compare import Known, compare, from_defaults, known_run
from kiara_cli.core.lab.page import Details, Heading, Paragraph, Part, Svg, Table, page
from kiara_cli.core.lab.series import X_LABELS, Y_LABELS, Axis, Series
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = {"val_loss": "validation loss", "val_bits_per_byte": "bits per byte", "step": "at step"}


def figure(series: Sequence[Series], x: Axis, y: str, log_x: bool = False) -> Figure:
    """Draw curves, and bands from the lowest to the highest where they are means. Raises KiaraError."""
    lines = {each.name: (each.x, each.y) for each in series}
    bands = {each.name: (each.low, each.high) for each in series if each.low is not None and each.high is not None}
    return figures.curves(lines, X_LABELS[x], Y_LABELS.get(y, y), log_x, bands)


def plot_page(series: Sequence[Series], runs: Sequence[Run], x: Axis, y: str, log_x: bool = False) -> str:
    """Write the page: the picture, the results, what differs from the first run, the settings. Raises KiaraError."""
    label = Y_LABELS.get(y, y)
    caption = f"{label} over {X_LABELS[x]}"
    if any(each.low is not None for each in series):
        caption += "; bands reach from the lowest to the highest of the runs"
    known = [found for run in runs if (found := _known(run)) is not None]
    rows = [[each.name, *(_figure(each.best.get(name)) for name in RESULTS)] for each in known]
    parts: list[Part] = [
        Svg(figures.to_svg(figure(series, x, y, log_x)), caption),
        Heading("Results"),
        Table(["run", *RESULTS.values()], rows, "Of each run's best evaluation."),
    ]
    if len(known) > 1:
        parts += [Heading(f"What differs from {known[0].name}"), *_differences(known)]
    parts += [Heading("Settings that are not the defaults")]
    parts += [Details(each.name, [_settings(each)]) for each in known]
    return page(f"{', '.join(run.name for run in runs[:4])}{' …' if len(runs) > 4 else ''}", parts)


def _known(run: Run) -> Known | None:
    try:
        return known_run(run)
    except KiaraError:
        return None


def _figure(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else "–"


def _differences(known: Sequence[Known]) -> list[Part]:
    rows = []
    for each in known[1:]:
        found = compare(each, known[0])
        notes = [*(f"not comparable: {reason}" for reason in found.unfair), *found.cautions]
        changes = ", ".join(map(str, found.changes)) or ("nothing" if found.same_seed else "the seed")
        rows.append([each.name, changes, "; ".join(notes)])
    return [Table(["run", "settings", "cautions"], rows)]


def _settings(known: Known) -> Part:
    rows = [[change.key, shown(change.ours), shown(change.theirs)] for change in from_defaults(known.config)]
    return Table(["setting", "here", "default"], rows) if rows else Paragraph("All are the defaults.")
