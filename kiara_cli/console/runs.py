"""Runs as a person reads them: tables, one run in full, two held to each other, curves in the terminal.

In: records, comparisons, series. Out: stdout; what is said beside results on stderr.
"""

from __future__ import annotations

import dataclasses
import datetime
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from kiara_cli.config.text import shown
from kiara_cli.console import output
from kiara_cli.console.output import amount, duration
from kiara_cli.console.plots import letter_of, lines
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.lab.compare import LOSS, Known, compare, from_defaults
from kiara_cli.core.lab.groups import Group, Spread, tell_apart
from kiara_cli.core.lab.outcome import Outcome
from kiara_cli.core.lab.records import Record, read_record
from kiara_cli.core.lab.removal import Removal, checkpoints
from kiara_cli.core.lab.series import X_LABELS, Y_LABELS, Axis, Series, series_of
from kiara_cli.errors import KiaraError

NOTHING = "–"
STYLES = ("cyan", "yellow", "green", "magenta", "blue", "red")
GOOD = {"finished", "running"}
HEIGHT = 16  # rows of curves
NARROW = 24  # characters of a name in a table, at least
FIGURES = {LOSS: "validation loss", "val_bits_per_byte": "bits per byte"}

Rows = Sequence[Mapping[str, str]]


def table(rows: Rows, left: Sequence[str] = ()) -> None:
    """Print rows that share their keys, aligned; those of `left` to the left. Rich takes seconds for ten thousand."""
    names = list(rows[0])
    heads = {name: name.replace("_", " ") for name in names}
    widths = {name: max(_width(heads[name]), *(_width(row[name]) for row in rows)) for name in names}
    terminal = output.console(sys.stdout)
    if terminal.is_terminal and names:
        spare = terminal.width - sum(widths.values()) - 2 * (len(names) - 1)
        widths[names[0]] = max(min(NARROW, widths[names[0]]), widths[names[0]] + min(0, spare))

    def line(row: Mapping[str, str]) -> str:
        cells = []
        for name in names:
            cell, width = row[name], widths[name]
            if not cell.isprintable():
                cell = cell.replace("\n", "␊").replace("\t", "␉")
            if _width(cell) > width:
                cell = set_cell_size(cell, width - 1).rstrip() + "…"
            space = " " * (width - _width(cell))
            cells.append(cell + space if name in left else space + cell)
        return "  ".join(cells).rstrip()

    output.result(line(heads))
    output.result("\n".join(map(line, rows)))


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def show_records(records: Sequence[Record], root: Path) -> None:
    """Print runs as a table."""
    if not records:
        return output.note(f"No such run in {root}.")
    now = datetime.datetime.now(datetime.UTC)
    table([_row(record, now) for record in records], ("run", "status", "data"))


def _row(record: Record, now: datetime.datetime) -> dict[str, str]:
    step = NOTHING if record.step is None else f"{record.step:,}"
    short = record.steps is not None and record.step is not None and record.step < record.steps
    return {
        "run": record.name,
        "status": record.status,
        "data": record.data or NOTHING,
        "params": _form(record.parameters, amount),
        "steps": f"{step}/{record.steps:,}" if short else step,
        "tokens": _form(record.tokens, amount),
        "val_loss": _form(record.val_loss, "{:.4f}".format),
        "bits_per_byte": _form(record.bits_per_byte, "{:.4f}".format),
        "time": _form(record.seconds, duration),
        "size": amount(record.bytes, "B"),
        "age": _age(record.created, now),
    }


def show_groups(groups: Sequence[Group], root: Path) -> None:
    """Print groups of runs that differ in the seed alone."""
    if not groups:
        return output.note(f"No such run in {root}.")
    said = tell_apart(groups, root)
    rows = []
    for each, settings in zip(groups, said, strict=True):
        record, left_out = each.records[0], len(each.records) - len(each.counted)
        row = {"group": each.name, "n": str(len(each.counted)), "left_out": str(left_out or ""),
               "params": _form(record.parameters, amount), "steps": _form(record.steps, "{:,}".format)}  # fmt: skip
        row |= {"val_loss": _mean(each.loss), "range": _range(each.loss), "bits_per_byte": _mean(each.bits_per_byte)}
        rows.append(row | {"settings": settings})
    left_out = any(row["left_out"] for row in rows)
    names = [name for name in rows[0] if left_out or name != "left_out"]
    table([{name: row[name] for name in names} for row in rows], ("group", "settings"))
    if any(" ± " in row["val_loss"] for row in rows):
        output.note("± is the standard deviation over seeds.")
    if left_out:
        output.note("Left out: runs that did not end as planned, and repeats of a seed.")


def _mean(spread: Spread | None) -> str:
    """Write the mean, and the standard deviation where there is one."""
    if spread is None:
        return NOTHING
    return f"{spread.mean:.4f}" + (f" ± {spread.sd:.4f}" if spread.sd is not None else "")


def _range(spread: Spread | None) -> str:
    return NOTHING if spread is None or spread.n == 1 else f"{spread.low:.4f}-{spread.high:.4f}"


def show_run(run: Run, known: Known | None, held: Outcome | None) -> None:
    """Print all that is known of a run: facts, changed settings, its curve, its checkpoints, how to go on."""
    record, facts, history = read_record(run), run.facts(), run.history()
    best = history.best or {}
    rows = [("status", record.status + (f": {record.reason}" if record.reason else ""))]
    rows += [(name, text) for name, text in _facts(record, facts, best) if text not in ("", NOTHING)]
    if history.damaged:
        lines_are = "line of metrics.jsonl is" if history.damaged == 1 else "lines of metrics.jsonl are"
        rows.append(("damaged", f"{history.damaged} {lines_are} not readable, and left out"))
    for change in facts.get("resumed_with_changes") or []:
        rows.append(("resumed", f"at step {change['step']} with other {', '.join(map(str, change['changed']))}"))
    output.facts(run.name, rows, to_stdout=True)
    if known is not None:
        changed = [(change.key, f"{shown(change.ours)}  (default {shown(change.theirs)})")
                   for change in from_defaults(known.config)]  # fmt: skip
        output.facts("\nSettings", changed or [("", "all are the defaults")], to_stdout=True)
    try:
        show_curves([series_of(run, "steps", "loss")], "steps", "loss")
    except KiaraError:
        output.result("\nNo records of the loss.")
    files = [(path.name, amount(path.stat().st_size, "B")) for path in checkpoints(run)]
    output.facts("\nCheckpoints", files or [("", "none")], to_stdout=True)
    if held is not None:
        output.result("")
        for line in outcome_lines(held):
            output.result(line)
    go_on(run, record)


def _facts(record: Record, facts: Mapping[str, Any], best: Mapping[str, Any]) -> list[tuple[str, str]]:
    measured = {**best, LOSS: best.get(LOSS, record.val_loss)}
    device = " ".join(str(facts[name]) for name in ("machine",) if facts.get(name))
    return [
        ("began", str(record.created or "")),
        ("data", f"{record.data or ''}  {str(facts.get('data_hash') or '')[:12]}".strip()),
        ("tokenizer", str(facts.get("tokenizer_hash") or "")[:12]),
        ("parameters", _form(record.parameters, "{:,}".format)),
        ("steps", " of ".join(f"{steps:,}" for steps in (record.step, record.steps) if steps is not None)),
        ("validation loss", _form(measured.get(LOSS), "{:.4f}".format)),
        ("bits per byte", _form(measured.get("val_bits_per_byte"), "{:.4f}".format)),
        ("accuracy", _form(measured.get("val_accuracy"), "{:.1%}".format)),
        ("measured at step", _form(measured.get("step"), "{:,}".format)),
        ("tokens", _form(record.tokens, "{:,}".format)),
        ("cost", ", ".join(part for part in (
            _form(record.flops, lambda value: amount(value, "FLOP")), _form(record.seconds, duration),
            _form(record.memory, lambda value: f"{amount(value, 'B')} of memory at most")) if part != NOTHING)),
        ("seed", _form(record.seed, str)),
        ("threads", _form(facts.get("threads"), str)),
        ("machine", device),
        ("versions", ", ".join(f"{name} {version}" for name, version in (facts.get("versions") or {}).items())
         if isinstance(facts.get("versions"), Mapping) else ""),
        ("code", str(facts.get("code_hash") or "")[:12]),
        ("results hash", str(record.results_hash or "")[:12]),
        ("started from", str(facts.get("from") or "")),
        ("size on disk", amount(record.bytes, "B")),
    ]  # fmt: skip


def go_on(run: Run, record: Record) -> None:
    """Suggest what to type next."""
    best = next((path for path in (run.best, run.last) if path.is_file()), None)
    if record.status in ("killed", "interrupted", "failed") and run.last.is_file():
        output.hint(f"To go on:    kiara train --resume --name {run.name}")
    if best is not None:
        output.hint(f"Try it:      kiara chat {best}\nMeasure it:  kiara eval {best}")
    output.hint(f"Hold another to it:  kiara train --baseline {run.name} KEY=VALUE")


def show_comparison(all_known: Sequence[Known], records: Sequence[Record]) -> None:
    """Print runs side by side: results and cost, settings that differ, why they may not be compared."""
    first = all_known[0]
    found = [compare(known, first) for known in all_known[1:]]
    results = [_results(known, record) for known, record in zip(all_known, records, strict=True)]
    keys = dict.fromkeys(change.key for each in found for change in each.changes)
    rows = [{"": name, **{known.name: row[name] for known, row in zip(all_known, results, strict=True)}}
            for name in results[0]]  # fmt: skip
    for key in keys:
        values = [next((shown(change.ours) for change in each.changes if change.key == key), "=") for each in found]
        base = next(shown(change.theirs) for each in found for change in each.changes if change.key == key)
        names = [known.name for known in all_known]
        rows.append({"": key, **dict(zip(names, [_short(base), *map(_short, values)], strict=True))})
    table(rows, ("",))
    for known, each in zip(all_known[1:], found, strict=True):
        for reason in each.unfair:
            output.warn(f"{known.name} cannot be compared with {first.name}: {reason}")
        for caution in each.cautions:
            output.note(f"{known.name} and {first.name}: {caution}.")
        if each.repeat and not each.unfair:
            output.note(f"{known.name} repeats {first.name}" + (", with the same seed." if each.same_seed else "."))
        difference = _difference(known, first, each.figure)
        if not each.unfair and difference is not None:
            output.note(f"{known.name}: {FIGURES[each.figure]} {difference}; one run each, so chance is in it.")


def _results(known: Known, record: Record) -> dict[str, str]:
    best = known.best
    return {
        "status": record.status,
        "validation loss": _form(best.get(LOSS), "{:.4f}".format),
        "bits per byte": _form(best.get("val_bits_per_byte"), "{:.4f}".format),
        "accuracy": _form(best.get("val_accuracy"), "{:.1%}".format),
        "parameters": _form(record.parameters, amount),
        "steps": _form(record.step, "{:,}".format),
        "tokens": _form(record.tokens, amount),
        "FLOPs": _form(record.flops, amount),
        "time": _form(record.seconds, duration),
        "seed": _form(record.seed, str),
    }


def _difference(ours: Known, theirs: Known, figure: str) -> str | None:
    a, b = ours.best.get(figure), theirs.best.get(figure)
    return None if not isinstance(a, float) or not isinstance(b, float) else difference(a, b)


def difference(ours: float, theirs: float) -> str:
    """Say in words by how much the first is lower or higher."""
    gap = ours - theirs
    if not gap:
        return "equal"
    return f"{abs(gap):.4f} {'lower' if gap < 0 else 'higher'} ({gap / theirs:+.2%})"


def outcome_lines(held: Outcome) -> list[str]:
    """Say how a run stands to its baseline, and how much that may mean."""
    base, figure = held.theirs.name, FIGURES[held.comparison.figure]
    if held.comparison.unfair:
        return [f"Cannot be compared with {base}: {'; '.join(held.comparison.unfair)}."]
    if held.values is None:
        return [f"Compared with {base} ({held.change}): one of the two was never measured."]
    ours, theirs = held.values
    said = [
        f"Compared with {base} ({held.change}): {figure} {ours:.4f}, there {theirs:.4f}: {difference(ours, theirs)}."
    ]
    if held.noise is None or held.usual is None:
        return [*said, "One run each says little: repeat both with other seeds (runtime.seed=1, 2, …)."]
    sd = f"{held.noise.n} seeds of {base} have a standard deviation of {held.noise.sd:.4f}"
    verdict = "within" if abs(ours - theirs) <= held.usual else "beyond"
    return [
        *said,
        f"{sd}: two single runs differ by up to {held.usual:.4f} by chance (19 of 20); this is {verdict} it.",
    ]


def show_outcome(held: Outcome) -> None:
    """Say on stderr how a run stands to its baseline."""
    for line in outcome_lines(held):
        output.note(line)


def show_curves(series: Sequence[Series], x: Axis, y: str) -> None:
    """Draw curves in characters, with a legend."""
    terminal = output.console(sys.stdout)
    width = min(terminal.width, 120) if terminal.is_terminal else 100
    points = [list(zip(each.x, each.y, strict=True)) for each in series]
    output.result("")
    printer = output.console(sys.stdout, width=width)
    printer.print(Text(f"{'':9} {Y_LABELS.get(y, y)} over {X_LABELS[x]}", style="dim"))
    for row in lines(points, width, HEIGHT, STYLES):
        printer.print(row)
    if len(series) > 1:
        for index, each in enumerate(series):
            printer.print(Text(f"{'':9} {letter_of(index)}  {each.name}", style=STYLES[index % len(STYLES)]))


def show_removal(removals: Sequence[Removal], checkpoints_only: bool) -> None:
    """Say on stderr what would go and what would stay."""
    what = "checkpoints" if checkpoints_only else "files, all of the run"
    for each in removals:
        output.note(f"{each.run.folder}: {each.files} {what}, {amount(each.bytes, 'B')}")
        for path in each.kept:
            output.note(f"  {path} stays: it has the same weights under a name of its own")


def agreed() -> bool:
    """Ask whether to go on. Raises KiaraError where nobody can answer."""
    if not sys.stdin.isatty():
        raise KiaraError("there is no terminal to ask in", "say --yes to remove without being asked")
    sys.stderr.write("Remove? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def as_json(value: Any) -> dict[str, Any]:
    """Return a dataclass of plain values as what --json prints."""
    return {key: list(item) if isinstance(item, tuple) else item for key, item in dataclasses.asdict(value).items()}


def _form(value: Any, form: Callable[[Any], str]) -> str:
    return form(value) if isinstance(value, int | float) and not isinstance(value, bool) else NOTHING


def _short(value: str) -> str:
    return value if len(value) <= 30 else value[:29] + "…"


def _age(created: str | None, now: datetime.datetime) -> str:
    try:
        seconds = (now - datetime.datetime.fromisoformat(created or "")).total_seconds()
    except (ValueError, TypeError):
        return NOTHING
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
