"""Pictures: numbers to figures, and figures to PNG files and to SVG that stands inside a page.

In: series, matrices, intervals. Out: matplotlib's `Figure`, drawn by Agg and without pyplot's state. matplotlib is of
the extra `lab` and imported when the first figure is made. A PNG has a white ground; in an SVG the ink is the page's
own colour, so that it is read on light and dark grounds.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kiara_cli.core.checkpoint.atomic import replacing
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers: TypeAlias = Sequence[float]

INK = "#24292f"  # of axes and text; to_svg puts the page's colour in its place
FAINT = "#8b949e"  # of grid lines and zero lines
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by all eyes
DASHES = ("-", "--", ":", "-.")  # after the last colour they begin again, dashed
IN_A_ROW = 16  # names beside the picture, at most; the others are counted
WIDTH, HEIGHT = 7.2, 4.0  # inches
DPI = 150
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.size": 9.5, "text.color": INK, "text.parse_math": False, "axes.edgecolor": INK,
    "axes.labelcolor": INK, "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False,
    "xtick.color": INK, "ytick.color": INK, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4, "grid.color": FAINT, "grid.linewidth": 0.4, "grid.alpha": 0.45,
    "legend.frameon": False, "lines.linewidth": 1.5, "svg.fonttype": "none", "svg.hashsalt": "kiara",
    "axes.titlesize": 10.5, "axes.titlelocation": "left",
}  # fmt: skip
# Of an SVG's own file: names of groups, which are equal in all figures, and addresses that HTML knows by itself.
OUTER = re.compile(r' id="[A-Za-z0-9.]+_\d+"| xmlns(:xlink)?="[^"]*"')


def curves(
    series: Mapping[str, tuple[Numbers, Numbers]],
    x_label: str,
    y_label: str,
    log_x: bool = False,
    bands: Mapping[str, tuple[Numbers, Numbers]] | None = None,
) -> Figure:
    """Draw each series (its x, its y) as a line, and a band (its low, its high) around those that have one.

    What leaves the range of the later three quarters is cut off, where it would flatten all the rest.
    """
    with drawing() as axes:
        for (name, (x, y)), (colour, dashes) in zip(series.items(), _styles(), strict=False):
            marker = "o" if len(x) < 12 else ""
            axes.plot(x, y, dashes, color=colour, label=name, marker=marker, markersize=3)
            if bands and name in bands:
                axes.fill_between(x, *bands[name], color=colour, alpha=0.18, linewidth=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(True)
        axes.set_xscale("log" if log_x else "linear")
        axes.xaxis.set_major_formatter(_large_numbers())
        later = [value for _, y in series.values() for value in y[len(y) // 4 :]]
        later += [value for band in (bands or {}).values() for y in band for value in y[len(y) // 4 :]]
        _cut(axes, later, [value for _, y in series.values() for value in y])
        if len(series) > 1:
            _legend(axes, len(series))
    return axes.get_figure()  # type: ignore[return-value]


def heatmap(
    matrix: Sequence[Numbers], rows: Sequence[str], columns: Sequence[str], title: str, center: float | None = None
) -> Figure:
    """Draw a matrix as colours, its first row on top; `center` is the value that is white, of differences 0.

    Labels are thinned out where they would run into each other.
    """
    values = [[float(value) for value in row] for row in matrix]
    flat = [value for row in values for value in row]
    options: dict[str, Any] = {"cmap": "viridis"}
    if center is not None:
        reach = max((abs(value - center) for value in flat), default=0.0) or 1.0
        options = {"cmap": "RdBu_r", "vmin": center - reach, "vmax": center + reach}
    size = WIDTH, min(9.0, max(2.2, 0.9 + 0.22 * len(values)))
    with drawing(size) as axes:
        image = axes.imshow(values, aspect="auto", interpolation="nearest", **options)
        for axis, names, most in ((axes.xaxis, columns, 24), (axes.yaxis, rows, 40)):
            every = max(1, -(-len(names) // most))
            axis.set_ticks(range(0, len(names), every), list(names)[::every])
        if any(len(name) > 3 for name in columns):
            axes.tick_params("x", rotation=60)
        axes.tick_params(length=0)
        axes.set_title(title)
        for spine in axes.spines.values():
            spine.set_visible(False)
        bar = axes.get_figure().colorbar(image, ax=axes, pad=0.02, fraction=0.05)  # type: ignore[union-attr]
        bar.outline.set_visible(False)
    return axes.get_figure()  # type: ignore[return-value]


def intervals(rows: Mapping[str, tuple[float, float, float]], x_label: str, at: float | None = 0.0) -> Figure:
    """Draw each row's (mean, low, high) as a point on a line, the first on top; `at` marks what they are held to."""
    with drawing((WIDTH, max(1.6, 0.9 + 0.32 * len(rows)))) as axes:
        if at is not None:
            axes.axvline(at, color=FAINT, linewidth=0.8, linestyle="--")
        for index, (mean, low, high) in enumerate(rows.values()):
            colour = COLOURS[0] if at is None or low > at or high < at else FAINT
            axes.plot((low, high), (index, index), color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot(mean, index, "o", color=colour, markersize=5)
        _name_rows(axes, list(rows), x_label)
    return axes.get_figure()  # type: ignore[return-value]


def bars(values: Mapping[str, float], x_label: str) -> Figure:
    """Draw each value as a bar from zero, the first on top."""
    with drawing((WIDTH, max(1.6, 0.9 + 0.3 * len(values)))) as axes:
        axes.barh(range(len(values)), list(values.values()), color=COLOURS[0], height=0.62)
        axes.axvline(0, color=INK, linewidth=0.6)
        _name_rows(axes, list(values), x_label)
    return axes.get_figure()  # type: ignore[return-value]


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all. Raises KiaraError if it cannot be written."""
    try:
        with replacing(path) as partial, quiet():
            figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None})
    except OSError as error:
        raise KiaraError(f"cannot write {path}: {error.strerror or error}", "give another file") from None


def to_svg(figure: Figure) -> str:
    """Return a figure as an <svg> element that stands inside HTML: text as text, no addresses, the page's ink."""
    written = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with quiet():
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    text = written.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s*<style type="text/css">.*?</style>', "", text, flags=re.DOTALL)  # would be the whole page's
    text = OUTER.sub("", text)
    return text.replace(INK, "currentColor")


@contextlib.contextmanager
def drawing(size: tuple[float, float] = (WIDTH, HEIGHT)) -> Iterator[Axes]:
    """Yield the axes of a new figure of so many inches; inside this block all is drawn in one style."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise KiaraError("pictures need matplotlib, which is not installed", "pip install 'kiara-slm[lab]'") from None
    with quiet(), matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure.add_subplot()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within this block matplotlib keeps its style, and to itself that a font lacks a sign."""
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _styles() -> Iterator[tuple[str, str]]:
    """Yield a colour and a dash pattern for each line, without end."""
    for dashes in itertools.cycle(DASHES):
        for colour in COLOURS:
            yield colour, dashes


def _legend(axes: Axes, lines: int) -> None:
    """Name the lines above the picture where they are few, else at its right."""
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure()
    assert figure is not None
    if lines <= 4 and sum(map(len, labels)) < 70:
        figure.legend(handles, labels, loc="outside upper left", ncols=lines)
        return
    if lines > IN_A_ROW:
        labels[IN_A_ROW - 1] += f" … and {lines - IN_A_ROW} more"
    figure.legend(handles[:IN_A_ROW], labels[:IN_A_ROW], loc="outside right upper", fontsize=8)


def _cut(axes: Axes, later: Sequence[float], every: Sequence[float]) -> None:
    """Show the range of the later values where that of all is more than twice as wide."""
    finite = [value for value in later if value - value == 0]
    if not finite:
        return
    low, high = min(finite), max(finite)
    span = (high - low) or max(abs(high), 1e-9) * 0.1
    whole = [value for value in every if value - value == 0]
    if max(whole) - min(whole) > 2 * span:
        axes.set_ylim(low - 0.06 * span, high + 0.06 * span)


def _name_rows(axes: Axes, names: list[str], x_label: str) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params("y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel(x_label)


def _large_numbers() -> Any:
    """Return a formatter of ticks: 20 k, 5 M, 300 P."""
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep=" ")
