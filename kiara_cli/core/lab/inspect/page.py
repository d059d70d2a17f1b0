"""What was found as one HTML page that needs nothing else.

In: a `Report`. Out: a file. On top a picture of attention to be explored: point at a token, and what a head looks at
from there is coloured; below, the figures of every view, where matplotlib is there (extra `lab`), and the numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kiara_cli.core.lab import figures
from kiara_cli.core.lab.inspect.lens import Guess
from kiara_cli.core.lab.inspect.pictures import drawn
from kiara_cli.core.lab.inspect.report import Report
from kiara_cli.core.lab.page import Heading, Paragraph, Part, Place, Svg, Table, page, save_text

SCRIPT = Path(__file__).parent / "look.js"
STYLE = """
.heads button { font: .8rem ui-monospace, monospace; color: inherit; background: none; border: 1px solid var(--faint);
                border-radius: .3rem; padding: .1rem .4rem; margin: .1rem; cursor: pointer; }
.heads button[aria-pressed="true"] { background: #0072b2; color: #fff; }
.words { font: .95rem/2.1 ui-monospace, monospace; }
.words span { border-radius: .2rem; padding: .15rem .1rem; margin: 0 .05rem; cursor: pointer; }
.words .answer { border-bottom: 2px solid var(--soft); }
.words .query { outline: 2px solid #d55e00; }
.told { min-height: 8rem; }
"""
STEPS = 4095


def write_page(report: Report, checkpoint: str, path: Path | None) -> Iterator[Path]:
    """Write the page; yield its path. Raises KiaraError if it cannot be written."""
    if path is not None:
        save_text(html(report, checkpoint), path)
        yield path


def html(report: Report, checkpoint: str) -> str:
    """Return the page."""
    data = json.dumps(look(report), ensure_ascii=True).replace("<", "\\u003c")
    script = f"\nconst LOOK = {data};\n{SCRIPT.read_text(encoding='utf-8')}"
    return page(f"Inside {checkpoint}", parts(report), script, STYLE)


def parts(report: Report) -> Iterator[Part]:
    """Yield what stands on the page."""
    prompted = report.prompted
    yield Paragraph(
        f"{prompted.start} tokens of prompt and {len(prompted.answer)} of answer (underlined); explained is token "
        f"{report.asked.position}, {report.word}."
    )
    yield Heading("Attention")
    yield Paragraph("Point at a token to see where a head looks from there; a click holds it, another lets it go.")
    yield Place("look", "This picture needs scripts.")
    if report.copying:
        rows = [
            [one.name, f"{one.attention:.1%}", f"{one.from_source:+.2f}", f"{one.logit:+.2f}"]
            for one in report.copying
        ]
        yield Heading(f"Which heads copy {report.word}")
        header = ("head", "attention to it before", "adds through it", "adds in all")
        yield Table(header, rows[:12], f"direct effects on the logit of {report.word}")
    if find_spec("matplotlib") is None:
        yield Paragraph("Figures need matplotlib: pip install 'kiara-slm[lab]'.")
    else:
        for name, figure in drawn(report):
            yield Heading(name.replace("-", " ").capitalize())
            yield Svg(figures.to_svg(figure))
    yield from tables(report)


def tables(report: Report) -> Iterator[Part]:
    """Yield the numbers of views that a table says best."""
    yield Heading("Tokens")
    rows = [
        [str(one.position), report.label(one.token), f"{one.bits:.2f}", f"{math.exp(-one.nats):.1%}", str(one.rank),
         "  ".join(f"{report.label(token)} {share:.1%}" for token, share in one.top[:3])]
        for one in report.surprisals
    ]  # fmt: skip
    yield Table(("position", "token", "bits", "probability", "rank", "likeliest"), rows)
    if report.parts is not None:
        yield Heading("Contributions")
        largest = sorted(report.parts.named().items(), key=lambda one: -abs(one[1]))
        yield Table(("part", "logit"), [[name, f"{value:+.3f}"] for name, value in largest])
    if report.ablated is not None:
        yield Heading("Without a part")
        changes = sorted(report.ablated, key=lambda one: -abs(one.change))
        yield Table(("without", "change of loss", "loss"),
                    [[one.name, f"{one.change:+.4f}", f"{one.loss:.4f}"] for one in changes])  # fmt: skip
    if report.neuron is not None:
        yield Heading(f"Tokens that excite neuron {report.neuron.layer}:{report.neuron.index}")
        yield Table(("activation", "before it", "token"), [
            [f"{one.activation:+.2f}", "".join(map(report.label, one.before)), report.label(one.token)]
            for one in report.neuron.excited
        ])  # fmt: skip


def look(report: Report) -> dict[str, Any]:
    """Return what the script needs: tokens, patterns as characters, what comes next, the lens."""
    following: list[dict[str, Any] | None] = [
        {"p": math.exp(-one.nats), "rank": one.rank, "bits": one.bits,
         "top": [[report.label(token), round(share, 4)] for token, share in one.top]}
        for one in report.surprisals
    ]  # fmt: skip
    lens = report.lens
    return {
        "tokens": report.prompted.labels,
        "start": report.prompted.start,
        "explained": report.asked.position,
        "copying": report.copying[0].name if report.copying else None,
        "patterns": {one.name: packed(one.pattern.tolist()) for one in report.heads},
        "next": following,
        "lens": None if lens is None else [
            [depth, [_first(report, guess) for guess in guesses]]
            for depth, guesses in zip(lens.depths, lens.guesses, strict=True)
        ],
    }  # fmt: skip


def _first(report: Report, guess: Guess) -> str:
    token, share = guess.top[0]
    return f"{report.label(token)} {share:.0%}"


def packed(pattern: list[list[float]]) -> str:
    """Write the lower triangle of a pattern, row by row, two characters each: the square root in 4096 steps."""
    steps = [
        round(STEPS * math.sqrt(min(1.0, share))) for place, row in enumerate(pattern) for share in row[: place + 1]
    ]
    return "".join(chr(48 + step // 64) + chr(48 + step % 64) for step in steps)
