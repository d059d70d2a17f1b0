"""Measurements of a model as a person reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kiara_cli.console import output
from kiara_cli.core.eval.details import Details, Group
from kiara_cli.core.eval.metrics import Metrics
from kiara_cli.core.eval.report import Report
from kiara_cli.core.eval.tasks import Tasks, run_tasks
from kiara_cli.core.generate.opened import Opened

HIDDEN = ("loss_standard_error", "window", "stride", "copied")  # are said in other rows
ONLY_IF_ANY = ("unknown_tokens", "unknown_bytes", "conversations_cut")
BAR = 40  # characters of the longest bar


def show_report(report: Report, json_: bool) -> None:
    """Print what was measured, and what was written."""
    values = report.record()
    if json_:
        return output.record(values)
    metrics, error = report.metrics, report.metrics.standard_error
    forms = {float: "{:.4f}", int: "{:,}", str: "{}"}
    rows = [
        (key.replace("_", " "), forms[type(value)].format(value))
        for key, value in values.items()
        if type(value) in forms and key not in HIDDEN and (value or key not in ONLY_IF_ANY)
    ]
    rows = [(name, f"{text} ± {error:.4f}" if name == "loss" and error else text) for name, text in rows]
    output.facts("", [*rows, ("context", _context(metrics))], to_stdout=True)
    if metrics.unknown:
        output.note(
            f"{metrics.unknown:,} tokens stand for text that this tokenizer has no id for ({metrics.unknown_bytes:,} "
            "bytes); bits per byte count 8 bits for each of those bytes"
        )
    if report.details is not None:
        for line in [*_calibration(report.details), *_losses(report), *_writing(report)]:
            output.result(line)
    for sample in report.samples:
        output.result(f"\n--- {sample.how}\n{sample.text}")


def _context(metrics: Metrics) -> str:
    """Say how much the model had read before each token."""
    window, stride = metrics.window, metrics.stride
    if stride < window:
        least = f"each token with {window - stride + 1:,} or more before it, but at the beginning of a text"
        return f"windows of {window:,} tokens, stride {stride:,}: {least}"
    return f"windows of {window:,} tokens, stride {stride:,}: each token with 1 to {window:,} before it"


def _calibration(details: Details) -> Iterator[str]:
    yield "\nHow sure it is, and how often it is right (█ right, │ sure)"
    for one in details.calibration():
        bar = list(f"{'█' * round(BAR * one.accuracy):<{BAR + 1}}")
        bar[round(BAR * one.confidence)] = "│"
        figures = f"{one.accuracy:4.0%} right  {one.tokens:>11,} tokens"
        yield f"  {one.low:4.0%} – {one.high:4.0%}  {''.join(bar)} {figures}"


def _losses(report: Report) -> Iterator[str]:
    assert report.details is not None
    yield "\nLoss by the tokens read before"
    yield from _bars(report.details.by_position())
    if report.by_frequency:
        yield "\nLoss by how often the token stands in the training data"
        yield from _bars(report.by_frequency)


def _bars(groups: Sequence[Group]) -> Iterator[str]:
    most = max(group.loss for group in groups) or 1.0
    names = [f"{group.low:,}" if group.low == group.high else f"{group.low:,} – {group.high:,}" for group in groups]
    wide = max(map(len, names))
    for name, group in zip(names, groups, strict=True):
        bar = "█" * round(BAR * group.loss / most)
        yield f"  {name:>{wide}}  {bar:<{BAR}} {group.loss:7.4f}  {group.tokens:>11,} tokens"


def _writing(report: Report) -> Iterator[str]:
    """Compare the samples with as much of the text that was measured."""
    wrote = report.wrote
    assert wrote is not None
    yield "\nWhat it writes: n-grams of tokens               samples   this text"

    def row(name: str, own: str, other: str) -> str:
        return f"  {name:<45} {own:>9} {other:>11}"

    mine, theirs = wrote.repetition, wrote.held_out_repetition
    for n, share in mine.distinct.items():
        yield row(f"{n}-grams that are distinct", f"{share:.1%}", _share(theirs.distinct, n))
    for n, share in mine.repeated.items():
        if n > 1:
            yield row(f"{n}-grams that stood in the same text before", f"{share:.1%}", _share(theirs.repeated, n))
    yield row("longest stretch that is repeated, tokens", f"{mine.longest:,}", f"{theirs.longest:,}")
    if wrote.novelty is None or wrote.held_out_novelty is None:
        return
    for n, share in wrote.novelty.seen.items():
        yield row(
            f"{n}-grams that stand in the training data", f"{share:.1%}", _share(wrote.held_out_novelty.seen, n)
        )
    found, other = wrote.novelty.longest, wrote.held_out_novelty.longest
    yield row("longest stretch from the training data, tokens", f"{found.length:,}", f"{other.length:,}")
    yield f"  which is: {wrote.copied!r}"
    yield f"  (looked up in all {wrote.novelty.scanned:,} tokens of the training data)"


def _share(shares: Mapping[int, float], n: int) -> str:
    return f"{shares[n]:.1%}" if n in shares else "–"


def show_tasks(opened: Opened, tasks: Tasks, json_: bool) -> None:
    """Answer the questions of tasks and print the figures of each."""
    for index, record in enumerate(run_tasks(opened, tasks)):
        values = {"checkpoint": str(opened.checkpoint.path), **record}
        if json_:
            output.record(values)
            continue
        forms = {float: "{:.4f}", int: "{:,}", str: "{}"}
        rows = [
            (key.replace("_", " "), forms[type(value)].format(value))
            for key, value in values.items()
            if type(value) in forms
        ]
        output.facts("" if index == 0 else " ", rows, to_stdout=True)
