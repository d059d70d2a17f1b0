"""What `kiara inspect` found, in the terminal: a few rows for each view.

In: a `Report`. Out: text on stdout.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from kiara_cli.console import output
from kiara_cli.console.blocks import bar, height, signed, spark
from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.lab.inspect.ablation import Done
from kiara_cli.core.lab.inspect.attention import SCORES
from kiara_cli.core.lab.inspect.page import write_page
from kiara_cli.core.lab.inspect.pictures import draw
from kiara_cli.core.lab.inspect.report import Report, as_json

WIDTH = 110  # characters where stdout is no terminal
COLUMNS = 8  # depths of the lens, at most


def tell(report: Report, checkpoint: str, json_: bool, png: Path | None, html: Path | None) -> None:
    """Print what was found, and write it as pictures and as a page where that was asked for."""
    if json_:
        output.record({"checkpoint": checkpoint, **as_json(report)})
    else:
        show(report, checkpoint)
    for path in [*draw(report, png), *write_page(report, checkpoint, html)]:
        output.note(f"wrote {path}")


def warn_of_transcript(opened: Opened) -> None:
    """Say how a prompt is read by a model that has not learned to answer."""
    if opened.template.kind == "transcript":
        output.note("This model learned from plain text: it reads a transcript, User: … Assistant: …; see --raw.")


def show(report: Report, checkpoint: str) -> None:
    """Print every view that was asked for."""
    terminal = sys.stdout.isatty()
    console = output.console(sys.stdout, width=None if terminal else WIDTH)
    prompted = report.prompted
    answer = f"{prompted.start} tokens of prompt, {len(prompted.answer)} of answer"
    console.print(f"{checkpoint}: {answer}; explained is token {report.asked.position},", end=" ", markup=False)
    console.print(Text(report.word, style="bold"))
    for name in report.asked.show:
        title, *parts = VIEWS[name](report, console.width)
        console.print(Text(f"\n{title}", style="bold"))
        for part in parts:
            console.print(part)


def grid(*columns: str) -> Table:
    """Return a table without lines; a column called ~x is set to the left."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in columns:
        table.add_column(name.lstrip("~"), justify="left" if name.startswith("~") else "right", no_wrap=True)
    return table


def percent(share: float | None) -> str:
    """Write a share in percent."""
    if share is None:
        return "–"
    if share < 0:
        return f"-{percent(-share)}"
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.{1 if share < 0.0995 else 0}f} %"


def guess(report: Report, pairs: Iterable[tuple[int, float]]) -> str:
    """Write tokens with their probabilities."""
    return "  ".join(f"{report.label(token)} {percent(share)}" for token, share in pairs)


def surprisal(report: Report, width: int) -> list[RenderableType | str]:
    """The tokens, each with a block for its surprisal, and the least expected ones of the answer."""
    answer = [one for one in report.surprisals if one.position >= report.prompted.start]
    mean = sum(one.nats for one in answer) / max(1, len(answer))
    line = Text(report.prompted.labels[0], style="dim")
    for one in report.surprisals:
        line.append(f" {report.label(one.token)}", style="" if one.position >= report.prompted.start else "dim")
        line.append(height(one.bits / 8), style="yellow")
    table = grid("token", "~", "bits", "nats", "p", "rank", "~likeliest")
    for one in sorted(sorted(answer, key=lambda one: -one.nats)[: report.asked.top], key=lambda one: one.position):
        table.add_row(str(one.position), report.label(one.token), f"{one.bits:.2f}", f"{one.nats:.2f}",
                      percent(math.exp(-one.nats)), str(one.rank), guess(report, one.top[:3]))  # fmt: skip
    title = (
        f"Surprisal: {mean:.3f} nats ({mean / math.log(2):.3f} bits) a token of the answer; a full block is 8 bits"
    )
    return [title, line, table]


def attention(report: Report, width: int) -> list[RenderableType | str]:
    """Scores of all heads, the heads that copy the explained token, and the picture of a chosen head."""
    table = grid("~score", "~heads, layer by layer", "~strongest")
    by_layer = {one.layer: [head for head in report.heads if head.layer == one.layer] for one in report.heads}
    for name in SCORES:
        found = [(one.scores[name], one.name) for one in report.heads]
        known = sorted(((value, head) for value, head in found if value is not None), reverse=True)
        if not known:
            continue
        high = max(known[0][0], 1.0) if name != "entropy" else known[0][0]
        rows = " ".join(spark([head.scores[name] or 0.0 for head in heads], high) for heads in by_layer.values())
        best = "  ".join(
            f"{head} {f'{value:.1f}' if name == 'entropy' else percent(value)}" for value, head in known[:4]
        )
        table.add_row(name, rows if len(rows) < width - 50 else "", best)
    parts: list[RenderableType | str] = [
        "Attention: heads as layer.head, shares of their attention (entropy in bits)"
    ]
    parts.append(table)
    if report.copying:
        what = "attention to it where it was said before, and what that adds to its logit"
        parts.append(Text(f"Copying {report.word}: {what}", style="dim"))
        copies = grid("~head", "attention", "~", "logit")
        reach = max(abs(one.from_source) for one in report.copying)
        for one in report.copying[: min(5, report.asked.top)]:
            copies.add_row(one.name, percent(one.attention), bar(one.from_source, reach), f"{one.from_source:+.2f}")
        parts.append(copies)
    if report.asked.head is not None:
        parts.append(picture(report, *report.asked.head, width))
    return parts


def picture(report: Report, layer: int, head: int, width: int) -> RenderableType:
    """The pattern of a head: a row for each query, a block for each key; the last ones that fit."""
    pattern = next(one.pattern for one in report.heads if (one.layer, one.head) == (layer, head)).tolist()
    labels = [f"{place} {text}" for place, text in enumerate(report.prompted.labels)]
    longest = max(map(len, labels))
    first = max(0, len(labels) - (width - longest - 4))
    rows = [Text(f"Head {layer}.{head}: queries in rows, keys from {labels[first]} on in columns", style="dim")]
    for place, row in enumerate(pattern):
        if place >= first:
            line = Text(f"{labels[place]:<{longest}} ", style="dim", no_wrap=True, overflow="crop")
            rows.append(line.append("".join(map(height, row[first : place + 1])), style="cyan"))
    return Group(*rows)


def lens(report: Report, width: int) -> list[RenderableType | str]:
    """For each token of the answer what the head makes of the stream after each layer."""
    assert report.lens is not None
    found = report.lens
    every = max(1, -(-len(found.depths) // COLUMNS))
    depths = [*range(0, len(found.depths) - 1, every), len(found.depths) - 1]
    table = grid("token", "~", *(f"~{found.depths[depth]}" for depth in depths))
    for place in range(report.prompted.start, len(report.prompted.ids)):
        cells = []
        for depth in depths:
            at = found.guesses[depth][place - 1]
            token, share = at.top[0]
            right = at.rank == 1
            cells.append(Text(f"{report.label(token)} {percent(share)}", style="green" if right else "dim"))
            if not right:
                cells[-1].append(f" #{at.rank}", style="yellow")
        table.add_row(str(place), report.prompted.labels[place], *cells)
    return ["Logit lens: the likeliest token after each layer; #n is the rank of the token that follows", table]


def attribution(report: Report, width: int) -> list[RenderableType | str]:
    """The largest contributions to the logit, and the positions that the heads took theirs from."""
    assert report.parts is not None
    parts = report.parts.named()
    against = f" - logit({report.label(report.asked.against)})" if report.asked.against is not None else ""
    largest = sorted(parts.items(), key=lambda one: -abs(one[1]))
    shown, rest = largest[: report.asked.top], sum(value for _, value in largest[report.asked.top :])
    table = grid("~part", "~", "logit")
    reach = max(abs(value) for value in parts.values())
    for name, value in shown:
        table.add_row(name, bar(value, reach), f"{value:+.2f}")
    if len(largest) > len(shown):
        table.add_row(f"{len(largest) - len(shown)} others", bar(rest, reach), f"{rest:+.2f}")
    sources = report.parts.sources.sum(dim=(0, 1)).tolist()
    best = sorted(range(len(sources)), key=lambda place: -sources[place])[:5]
    told = "  ".join(f"{report.prompted.labels[place]} ({place}) {sources[place]:+.2f}" for place in best)
    title = f"Attribution: logit({report.word}){against} = {report.parts.logit:.2f} is the sum of"
    return [title, table, Text(f"heads took most from  {told}", style="dim")]


def norms(report: Report, width: int) -> list[RenderableType | str]:
    """Lengths of the stream by layer."""
    assert report.norms is not None
    table = grid("~point", "mean", "most", "~at", "~tokens of the answer")
    for name, values in report.norms.items():
        most = max(range(len(values)), key=values.__getitem__)
        own = values[report.prompted.start - 1 : report.prompted.start + width // 3]
        table.add_row(name, f"{sum(values) / len(values):.2f}", f"{values[most]:.2f}",
                      f"{report.prompted.labels[most]} ({most})", spark(own))  # fmt: skip
    return ["Norms of the residual stream, and of what is added to it", table]


def ablation(report: Report, width: int) -> list[RenderableType | str]:
    """The parts without which the loss changes most."""
    found = sorted(report.ablated or [], key=lambda one: -abs(one.change))
    if not found:
        return ["Ablation"]
    asked = report.asked
    on = report.word if asked.word_alone else "the answer"
    on = f"{sum(map(len, asked.windows)):,} tokens of text" if asked.windows else on
    what = {"zero": "zero", "mean": "its mean"}[asked.how]
    table = grid("~without", "~", "change", "loss", "lead")
    reach = abs(found[0].change)
    for one in found[: asked.top]:
        table.add_row(one.name, bar(one.change, reach), f"{one.change:+.3f}", f"{one.loss:.3f}", f"{one.lead:.2f}")
    before = f"{found[0].before:.3f} nats a token, {found[0].lead_before:.2f} ahead of the best other"
    return [f"Ablation: loss on {on} {before}; a part set to {what}:", table]


def patching(report: Report, width: int) -> list[RenderableType | str]:
    """Layer × position for each kind, the strongest cells, and the heads."""
    found = report.patched
    assert found is not None
    assert report.asked.corrupt is not None
    clean, corrupt = report.prompted.labels, report.asked.corrupt.labels
    positions = found.maps["resid_pre"].shape[1]
    first = max(
        0, min(next(i for i in range(positions) if clean[i] != corrupt[i]), positions - 1), positions - width + 24
    )
    parts: list[RenderableType | str] = [
        f"Patching: {found.metric} is {found.clean:.2f}, and {found.corrupt:.2f} for --corrupt; 100 % brings it back"
    ]
    parts.append(
        Text(f"columns are tokens {first} {clean[first]} to {positions - 1} {clean[positions - 1]}", style="dim")
    )
    for kind, cells in found.maps.items():
        values = cells.tolist()
        ranked = sorted(((values[layer][place], layer, place) for layer in range(len(values))
                         for place in range(positions)), reverse=True)  # fmt: skip
        best = "  ".join(
            f"{layer} at {clean[place]} ({place}) {percent(value)}" for value, layer, place in ranked[:4]
        )
        parts.append(Text(f"{kind:<16} most: layer {best}"))
        for layer, row in enumerate(values):
            parts.append(Text(f"  layer {layer:<3} ", style="dim", no_wrap=True).append_text(_cells(row[first:])))
    heads = [
        (value, f"{layer}.{head}") for layer, row in enumerate(found.heads.tolist()) for head, value in enumerate(row)
    ]
    heads.sort(key=lambda one: -abs(one[0]))
    parts.append(Text("heads            most: " + "  ".join(f"{name} {percent(value)}" for value, name in heads[:6])))
    return parts


def _cells(row: Sequence[float]) -> Text:
    out = Text(no_wrap=True, overflow="crop")
    for value in row:
        out.append_text(signed(value) if height(abs(value)) != " " else Text("·", style="dim"))
    return out


def neurons(report: Report, width: int) -> list[RenderableType | str]:
    """The strongest neurons at each token of the answer, or one neuron over all tokens."""
    if report.neuron is None:
        table = grid("token", "~", "~neuron and activation")
        for one in (report.active or [])[report.prompted.start :]:
            told = "  ".join(f"{index} {value:+.2f}" for index, value in one.neurons)
            table.add_row(str(one.position), report.prompted.labels[one.position], told)
        return [f"Neurons of layer {report.layer} that are most active; --neuron {report.layer}:I follows one", table]
    found = report.neuron
    line = Text()
    high = max(map(abs, found.activations)) or 1.0
    for text, value in zip(report.prompted.labels, found.activations, strict=True):
        line.append(f"{text} ").append_text(signed(value / high)).append(" ")
    table = grid("activation", "~", "~token")
    for excited in found.excited[: report.asked.top]:
        before = "".join(report.label(token) for token in excited.before)
        table.add_row(
            f"{excited.activation:+.2f}",
            Text(before[-40:], style="dim", justify="right"),
            report.label(excited.token),
        )
    title = (f"Neuron {found.layer}:{found.index}: above a tenth of its maximum at {percent(found.share)} of "
             f"{found.tokens:,} tokens")  # fmt: skip
    return [title, line, table]


VIEWS: dict[str, Callable[[Report, int], list[RenderableType | str]]] = {
    "surprisal": surprisal, "attention": attention, "lens": lens, "attribution": attribution, "norms": norms,
    "ablation": ablation, "patching": patching, "neurons": neurons,
}  # fmt: skip


@contextlib.contextmanager
def progress() -> Iterator[Done]:
    """Show on stderr how far a long view is, where it is a terminal."""
    console = output.console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[int, TaskID] = {}

        def done(count: int, of: int) -> None:
            if of not in tasks:
                tasks[of] = bars.add_task("forward passes", total=of)
            bars.update(tasks[of], completed=count)

        yield done
