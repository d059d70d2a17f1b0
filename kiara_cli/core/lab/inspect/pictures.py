"""What was found as figures, and as PNG files.

In: a `Report`. Out: figures by name; paths that were written. They need matplotlib, of the extra `lab`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kiara_cli.core.lab import figures
from kiara_cli.core.lab.inspect.attention import SCORES
from kiara_cli.core.lab.inspect.report import Report
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_places(png: Path | None, html: Path | None) -> None:
    """Raise KiaraError for places that cannot be written to, before any work is done."""
    if png is not None:
        if png.exists() and not png.is_dir():
            raise KiaraError(f"--png {png} is a file", "give a folder")
        with figures.drawing():  # or say that matplotlib is missing
            pass
    if html is not None:
        if html.is_dir():
            raise KiaraError(f"--html {html} is a folder", f"give a file, such as {html / 'page.html'}")
        if not html.parent.exists():
            raise KiaraError(f"there is no folder {html.parent} for --html {html}", "make it first")


def draw(report: Report, folder: Path | None) -> Iterator[Path]:
    """Write every view as PNG into a folder; yield the files. Raises KiaraError if it cannot be written."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KiaraError(f"cannot write {folder}: {error.strerror or error}", "give another --png FOLDER") from None
    for name, figure in drawn(report):
        figures.save_png(figure, folder / f"{name}.png")
        yield folder / f"{name}.png"


def drawn(report: Report) -> Iterator[tuple[str, Figure]]:
    """Yield the figures of each view by name."""
    for name in report.asked.show:
        yield from FIGURES[name](report)


def columns(report: Report, first: int = 0, end: int | None = None) -> list[str]:
    """Name the tokens at an axis."""
    return [f"{place} {text}" for place, text in enumerate(report.prompted.labels)][first:end]


def _surprisal(report: Report) -> Iterator[tuple[str, Figure]]:
    start = report.prompted.start
    bars = {
        f"{one.position} {report.label(one.token)}": one.bits for one in report.surprisals if one.position >= start
    }
    yield "surprisal", figures.bars(bars, "surprisal, bits")


def _attention(report: Report) -> Iterator[tuple[str, Figure]]:
    names = [one.name for one in report.heads]
    shares = [[one.scores[name] or 0.0 for one in report.heads] for name in SCORES[:-1]]
    yield "head-scores", figures.heatmap(shares, SCORES[:-1], names, "Attention of heads (layer.head)")
    yield "patterns", patterns(report)
    if report.asked.head is not None:
        layer, head = report.asked.head
        one = next(one for one in report.heads if (one.layer, one.head) == (layer, head))
        title = f"Head {one.name}: queries in rows, keys in columns"
        yield f"head-{one.name}", figures.heatmap(one.pattern.tolist(), columns(report), columns(report), title)
    if report.copying:
        bars = {f"head {one.name}": one.from_source for one in report.copying[:12]}
        yield "copying", figures.bars(bars, f"what attention to {report.word} adds to its logit")


def patterns(report: Report) -> Figure:
    """Draw the patterns of all heads as one picture, a row for each layer."""
    layers, length = max(one.layer for one in report.heads) + 1, len(report.prompted.ids)
    heads, side = len(report.heads) // layers, length + max(1, length // 20)  # with a gap between two
    picture = torch.full((layers * side, heads * side), float("nan"))
    for one in report.heads:
        down, across = one.layer * side, one.head * side
        picture[down : down + length, across : across + length] = one.pattern.sqrt()
    size = min(2.0, 16 / heads)
    with figures.drawing((size * heads + 0.8, min(40.0, size * layers) + 0.6)) as axes:
        axes.imshow(picture.numpy(), cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        for axis, names in (
            (axes.xaxis, [f"head {head}" for head in range(heads)]),
            (axes.yaxis, [f"layer {layer}" for layer in range(layers)]),
        ):
            axis.set_ticks([index * side + length / 2 for index in range(len(names))], names)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title("Square root of attention: queries down, keys across")
    return axes.get_figure()  # type: ignore[return-value]


def _lens(report: Report) -> Iterator[tuple[str, Figure]]:
    assert report.lens is not None
    start = report.prompted.start
    rows = [[guess.probability or 0.0 for guess in guesses[start - 1 : -1]] for guesses in report.lens.guesses]
    title = "Logit lens: probability of the token that follows"
    yield "lens", figures.heatmap(rows, report.lens.depths, columns(report, start), title)


def _attribution(report: Report) -> Iterator[tuple[str, Figure]]:
    assert report.parts is not None
    parts = sorted(report.parts.named().items(), key=lambda one: -abs(one[1]))[:24]
    yield "attribution", figures.bars(dict(parts), f"contribution to the logit of {report.word}")
    rows = report.parts.heads.tolist()
    layers, heads = [f"layer {i}" for i in range(len(rows))], [str(i) for i in range(len(rows[0]))]
    title = f"Direct contribution of heads to the logit of {report.word}"
    yield "attribution-heads", figures.heatmap(rows, layers, heads, title, center=0.0)


def _norms(report: Report) -> Iterator[tuple[str, Figure]]:
    assert report.norms is not None
    kept = {name: values for name, values in report.norms.items() if name.endswith(("resid_pre", "resid_post"))}
    series = {name: (list(range(len(values))), values) for name, values in kept.items()}
    yield "norms", figures.curves(series, "position", "length of the stream")


def _ablation(report: Report) -> Iterator[tuple[str, Figure]]:
    found = sorted(report.ablated or (), key=lambda one: -abs(one.change))
    bars = {one.name: one.change for one in found[:24]}
    yield "ablation", figures.bars(bars, f"change of loss with {report.asked.how} in its place, nats a token")


def _patching(report: Report) -> Iterator[tuple[str, Figure]]:
    found = report.patched
    assert found is not None
    for kind, cells in found.maps.items():
        rows = cells.tolist()
        title = f"Patching {kind}: share of {found.metric} that comes back"
        names = columns(report, 0, len(rows[0]))
        layers = [f"layer {layer}" for layer in range(len(rows))]
        yield f"patching-{kind}", figures.heatmap(rows, layers, names, title, center=0.0)
    rows = found.heads.tolist()
    layers, heads = [f"layer {layer}" for layer in range(len(rows))], [str(head) for head in range(len(rows[0]))]
    yield "patching-heads", figures.heatmap(rows, layers, heads, f"Patching heads: {found.metric}", center=0.0)


def _neurons(report: Report) -> Iterator[tuple[str, Figure]]:
    if report.neuron is not None:
        one = report.neuron
        bars = dict(zip(columns(report), one.activations, strict=True))
        yield "neuron", figures.bars(bars, f"activation of neuron {one.layer}:{one.index}")
        return
    indices = list(dict.fromkeys(index for one in report.active or () for index, _ in one.neurons[:2]))[:40]
    hidden = report.trace.at(report.layer, "feedforward.hidden").T
    rows = [hidden[index].tolist() for index in indices]
    title = f"Most active neurons of layer {report.layer}"
    yield "neurons", figures.heatmap(rows, [str(index) for index in indices], columns(report), title, center=0.0)


FIGURES: dict[str, Callable[[Report], Iterator[tuple[str, Figure]]]] = {
    "surprisal": _surprisal, "attention": _attention, "lens": _lens, "attribution": _attribution, "norms": _norms,
    "ablation": _ablation, "patching": _patching, "neurons": _neurons,
}  # fmt: skip
