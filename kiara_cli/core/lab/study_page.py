"""A study's report as files that people read and pass on: Markdown with pictures, HTML in one file, JSON.

In: a `Report`. Out: report.md, report.html, report.json and the pictures, in the study's folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from kiara_cli.core.lab import figures
from kiara_cli.core.lab.page import Details, Heading, Paragraph, Part, Preformatted, Svg, Table, page, save_text
from kiara_cli.core.lab.report import Line, Report, record
from kiara_cli.core.lab.study import MEASURES
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTHING = "–"
BANDS = 4  # arms up to which curves have a band of one standard deviation


@dataclass(frozen=True)
class Picture:
    """A figure, and the file that Markdown refers to."""

    name: str
    figure: Figure
    caption: str


Piece: TypeAlias = Part | Picture


def require_matplotlib() -> None:
    """Raise KiaraError where matplotlib is missing, before hours of training."""
    if find_spec("matplotlib") is None:
        raise KiaraError("the reports of studies need matplotlib", "install it with: pip install 'kiara-slm[lab]'")


def write_report(found: Report) -> list[Path]:
    """Write all files of a report; return their paths, the one to open first."""
    title, pieces = f"Study {found.study.name}", list(parts(found))
    html = [Svg(figures.to_svg(each.figure), each.caption) if isinstance(each, Picture) else each for each in pieces]
    paths = [found.folder / f"report.{kind}" for kind in ("html", "md", "json")]
    for piece in pieces:
        if isinstance(piece, Picture):
            paths.append(found.folder / piece.name)
            figures.save_png(piece.figure, paths[-1])
    save_text(page(title, html), paths[0])
    save_text(markdown(title, pieces), paths[1])
    save_text(json.dumps(record(found), indent=1) + "\n", paths[2])
    return paths


def parts(found: Report) -> Iterator[Piece]:
    """Yield the report from what matters most to what is only looked up."""
    study, seeds = found.study, len(found.study.seeds)
    arms = f"{len(study.variants)} {'sizes' if study.scaling else 'variants'}"
    how = f"measured in {found.unit} on the validation split at the end of training"
    yield Paragraph(f"{arms}, {seeds} seeds, {how}; lower is better.")
    yield from (Paragraph(f"Warning: {warning}.") for warning in found.warnings)
    if found.scaling is not None:
        yield from _scaling(found)
    else:
        yield Heading("Verdicts")
        yield Table(("variant", "verdict"), [(line.arm, line.words) for line in found.judged])
        yield Picture("differences.png", _differences(found), "Difference from the baseline, with its interval.")
    yield Heading("Measurements")
    yield Table(MEASURED, [measured(line) for line in found.lines])
    yield Table(COSTS, [costs(line) for line in found.lines])
    yield Paragraph(EXPLAINED)
    if (picture := _curves(found)) is not None:
        yield picture
    yield Heading("How it was judged")
    yield Paragraph(f"{found.method[:1].upper()}{found.method[1:]}.")
    yield Paragraph(pairing_words(found))
    yield Details("What was held fixed", [Table(("what", "value"), [(k, str(v)) for k, v in found.held.items()])])
    yield Details("All runs", [_runs(found)])
    yield Details("The study", [Preformatted(json.dumps(study.definition, indent=1))])


MEASURED = ("arm", "change", "mean", "± sd", "seeds", "difference", "interval", "p")
COSTS = ("arm", "as % of steps", "FLOPs", "tokens", "seconds", "parameters")
EXPLAINED = (
    "sd: standard deviation over seeds. As % of steps: the share of its steps after which the baseline is as good; "
    "above 100 %, how much longer it would have to train; read off the validation curves, so an approximation where "
    "the learning rate falls. FLOPs, tokens and seconds are of one run's training."
)


def measured(line: Line) -> tuple[str, ...]:
    """Return an arm as a row under MEASURED."""
    judged = line.comparison
    difference = interval = p = NOTHING
    if judged is not None:
        difference, p = f"{judged.difference:+.4f}", f"{judged.p:.2g}"
        interval = f"{judged.low:+.4f} to {judged.high:+.4f}"
    mean, sd = _number(line.mean, ".4f"), _number(line.sd, ".4f")
    return (line.arm, line.change, mean, sd, str(line.seeds), difference, interval, p)


def costs(line: Line) -> tuple[str, ...]:
    """Return an arm as a row under COSTS."""
    steps = NOTHING if line.steps is None else f"{line.steps:.0%}"
    return (line.arm, steps, *map(_number, (line.flops, line.tokens, line.seconds, line.parameters)))


def pairing_words(found: Report) -> str:
    """Say how alike arms are over seeds, and how large the noise is."""
    spreads = [line.sd for line in found.lines if math.isfinite(line.sd)]
    noise = math.sqrt(sum(sd**2 for sd in spreads) / len(spreads)) if spreads else math.nan
    said = f"Noise of one run over seeds: {_number(noise, '.4f')} {found.unit}."
    pairing = found.pairing
    if pairing is None:
        return said
    gain = (
        "narrows the intervals"
        if pairing.low > 0
        else "may narrow the intervals"
        if pairing.high > 0
        else "widens them"
    )
    ratio = "" if math.isinf(pairing.ratio) else f" Between arms it differs by up to {pairing.ratio:.1f} times."
    return (
        f"{said}{ratio} Runs of one seed correlate by {pairing.correlation:.2f} (95 %: {pairing.low:.2f} to "
        f"{pairing.high:.2f}): pairing them {gain}."
    )


def scaling_words(found: Report) -> list[str]:
    """Say what law was found, how it predicted the largest size, and what it predicts next."""
    law = found.scaling
    assert law is not None
    check, ahead = law.check, law.next
    verdict = "holds" if check.holds else "does not hold"
    floor, slope = (f"{low:.4f} to {high:.4f}" for low, high in (law.floor, law.slope))
    checked, reached = (f"{each.loss:.4f} ({each.low:.4f} to {each.high:.4f})" for each in (check, ahead))
    return [
        f"L = {law.law.floor:.4f} + {law.law.factor:.4f} · (C / {law.law.unit:.3g})^-{law.law.slope:.4f}",
        f"the floor is {floor}, α is {slope} (95 %, for the noise of seeds)"
        if law.law.floor
        else f"α is {slope} (95 %)",
        f"checked: from the smaller sizes, {check.compute:.3g} FLOP should reach {checked}; measured "
        f"{check.measured:.4f}: the prediction {verdict}",
        f"next: {ahead.compute:.3g} FLOP should reach {reached}, as a mean of {ahead.seeds} seeds",
        *law.notes,
    ]


def markdown(title: str, pieces: Sequence[Piece]) -> str:
    """Return the report as Markdown."""
    return f"# {title}\n\n" + "\n\n".join(_markdown(piece) for piece in pieces) + "\n"


def _markdown(piece: Piece) -> str:
    match piece:
        case Heading():
            return f"{'#' * piece.level} {piece.text}"
        case Paragraph():
            return piece.text
        case Preformatted():
            return f"```\n{piece.text}\n```"
        case Table():
            rows = [piece.header, ["---"] * len(piece.header), *piece.rows]
            return "\n".join(f"| {' | '.join(cell.replace('|', '¦') for cell in row)} |" for row in rows)
        case Picture():
            return f"![{piece.caption}]({piece.name})"
        case Details():
            return "\n\n".join([f"## {piece.summary}", *map(_markdown, piece.parts)])
        case _:
            return piece.caption if isinstance(piece, Svg) else ""


def _scaling(found: Report) -> Iterator[Piece]:
    law = found.scaling
    assert law is not None
    yield Heading("The law")
    yield from (Paragraph(f"{words[:1].upper()}{words[1:]}.") for words in scaling_words(found))
    lines = sorted(found.lines, key=lambda line: line.flops)
    computes = [line.flops for line in lines]
    ahead = np.geomspace(min(computes), law.next.compute, 40)
    series = {"measured": (computes, [line.mean for line in lines])}
    series["law"] = (list(ahead), [law.law.at(compute) for compute in ahead])
    figure = figures.curves(series, "FLOPs of training", found.unit, log_x=True)
    yield Picture("scaling.png", figure, "Mean loss of each size over its compute, and the law through them.")


def _differences(found: Report) -> Figure:
    rows = {
        line.arm: (line.comparison.difference, line.comparison.low, line.comparison.high)
        for line in found.judged
        if line.comparison is not None
    }
    return figures.intervals(rows, f"difference in {found.unit} (left of 0: better)")


def _curves(found: Report) -> Picture | None:
    key = MEASURES[found.study.measure]
    series, bands = {}, {}
    for line, cells in zip(found.lines, found.table.cells, strict=True):
        runs = [{row["step"]: row[key] for row in cell.evaluations if key in row} for cell in cells if cell.values]
        steps = sorted(set.intersection(*map(set, runs))) if runs else []
        if len(steps) < 2:
            continue
        values = np.array([[run[step] for step in steps] for run in runs], dtype=np.float64)
        mean, sd = values.mean(0), values.std(0, ddof=1) if len(runs) > 1 else np.zeros(len(steps))
        series[line.arm] = (steps, list(mean))
        bands[line.arm] = (list(mean - sd), list(mean + sd))
    if not series:
        return None
    few = bands if len(series) <= BANDS else None
    figure = figures.curves(series, "steps", f"{found.unit} on the validation split", bands=few)
    caption = "Means over seeds" + (", with one standard deviation on each side." if few else ".")
    return Picture("curves.png", figure, caption)


def _runs(found: Report) -> Table:
    measures = list(MEASURES)
    rows = []
    for cell in (cell for row in found.table.cells for cell in row):
        values = [_number(cell.values.get(each, math.nan), ".4f") for each in measures]
        identity = str(cell.facts.get("results_hash", NOTHING))[:12]
        rows.append((cell.run.name, str(cell.seed), cell.status, *values, _number(cell.fact("seconds")), identity))
    return Table(("run", "seed", "status", *measures, "seconds", "results hash"), rows)


def _number(value: float, form: str = ".3g") -> str:
    return NOTHING if not math.isfinite(value) else f"{value:{form}}"
