"""kiara runs: what has been trained, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kiara_cli.commands import completion
from kiara_cli.commands.examples import shown
from kiara_cli.commands.options import RUNS_ROOT, Debug, Json

runs = typer.Typer(help="What has been trained: list, show, compare, plot, ablate, remove.")

Root = Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="Where the runs are.")]
Several = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", help="Names of runs, or their folders.", autocompletion=completion.runs),
]
Sort = Literal["name", "created", "val_loss", "bits_per_byte", "parameters", "step", "tokens", "seconds", "bytes"]
Status = Literal["running", "finished", "interrupted", "diverged", "failed", "killed", "damaged"]


@runs.command(**shown("runs list"))
def list_(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Only these; * stands for anything.", autocompletion=completion.runs
        ),
    ] = None,
    status: Annotated[Status | None, typer.Option(help="Only runs that stand so.")] = None,
    data: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs on this data.")] = None,
    sort: Annotated[Sort, typer.Option(help="By what; runs without it come last.")] = "created",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    last: Annotated[int | None, typer.Option("--last", metavar="N", min=1, help="Only the last N lines.")] = None,
    group: Annotated[bool, typer.Option("--group", help="Put runs together that differ in the seed alone.")] = False,
    root: Root = RUNS_ROOT,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """List the runs: how each stands, what came of it and what it cost."""
    from kiara_cli.console import output
    from kiara_cli.console.runs import as_json, show_groups, show_records
    from kiara_cli.core.lab.groups import group as grouped
    from kiara_cli.core.lab.records import chosen, ordered, read_records

    records = ordered(chosen(read_records(root), names or (), status, data), sort, reverse)
    if group:
        groups = grouped(records)[-(last or 0) :]
        if not json_:
            return show_groups(groups, root)
        for each in groups:
            runs = [record.name for record in each.records]
            spreads = {name: spread and as_json(spread) for name, spread in each.spreads.items()}
            output.record({"group": each.name, "n": len(each.counted), "runs": runs, **spreads})
        return
    records = records[-(last or 0) :]
    if not json_:
        return show_records(records, root)
    for record in records:
        output.record(as_json(record))


@runs.command(**shown("runs show"))
def show(
    name: Annotated[
        str, typer.Argument(metavar="RUN", help="The name of a run, or its folder.", autocompletion=completion.runs)
    ],
    root: Root = RUNS_ROOT,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Show all that is known of a run: facts, settings, its curve, its checkpoints, how to go on."""
    from kiara_cli.console import output
    from kiara_cli.console.runs import as_json, show_run
    from kiara_cli.core.lab.compare import known_run
    from kiara_cli.core.lab.outcome import outcome
    from kiara_cli.core.lab.records import find_run, read_record
    from kiara_cli.errors import KiaraError

    run = find_run(name, root)
    if json_:
        return output.record({**run.facts(), **as_json(read_record(run))})
    known = None
    try:
        known = known_run(run)
    except KiaraError as error:
        output.warn(str(error))
    show_run(run, known, outcome(run, run.root))


@runs.command(**shown("runs compare"))
def compare(names: Several, root: Root = RUNS_ROOT, json_: Json = False, debug: Debug = False) -> None:
    """Put runs side by side: results, settings that differ, and whether they may be compared with the first."""
    from kiara_cli.console import output
    from kiara_cli.console.runs import as_json, show_comparison
    from kiara_cli.core.lab.compare import compare as compared
    from kiara_cli.core.lab.compare import known_run
    from kiara_cli.core.lab.records import find_run, read_record
    from kiara_cli.errors import KiaraError

    if len(names) < 2:
        raise KiaraError("one run alone cannot be compared", "name two or more: kiara runs compare A B")
    found = [find_run(name, root) for name in names]
    known = [known_run(run) for run in found]
    if not json_:
        return show_comparison(known, [read_record(run) for run in found])
    for each in known[1:]:
        output.record({"run": each.name, "with": known[0].name, **as_json(compared(each, known[0]))})


@runs.command(**shown("runs plot"))
def plot(
    names: Several,
    x: Annotated[Literal["steps", "tokens", "flops", "seconds"], typer.Option("--x", help="Over what.")] = "steps",
    y: Annotated[
        str, typer.Option("--y", metavar="KEY", help="loss, val_loss, bits_per_byte, lr …: a key of metrics.jsonl.")
    ] = "loss",
    smooth: Annotated[
        float, typer.Option(min=0, max=0.999, help="Share of the mean before that each point keeps, such as 0.9.")
    ] = 0.0,
    group: Annotated[
        bool, typer.Option("--group", help="Runs that differ in the seed alone as their mean, with a band.")
    ] = False,
    log_x: Annotated[bool, typer.Option("--log-x", help="In files: a logarithmic axis.")] = False,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a picture.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with results and settings.")] = None,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="What statistics hooks recorded, layer by layer; of one run.")
    ] = False,
    root: Root = RUNS_ROOT,
    debug: Debug = False,
) -> None:
    """Draw curves of runs: in the terminal, as PNG, as HTML."""
    if statistics:
        return _plot_statistics(names, png, html, root)
    from kiara_cli.console import output
    from kiara_cli.console.runs import show_curves
    from kiara_cli.core.lab.page import save_text
    from kiara_cli.core.lab.plotting import figure, plot_page
    from kiara_cli.core.lab.records import find_run
    from kiara_cli.core.lab.series import curves_of, key_of

    found, key = [find_run(name, root) for name in dict.fromkeys(names)], key_of(y)
    series = curves_of(found, x, key, smooth, group)
    if png is not None:
        from kiara_cli.core.lab.figures import save_png

        save_png(figure(series, x, key, log_x), png)
    if html is not None:
        save_text(plot_page(series, found, x, key, log_x), html)
    if png is None and html is None:
        return show_curves(series, x, key)
    output.note(f"Written: {', '.join(str(path) for path in (png, html) if path is not None)}")


def _plot_statistics(names: list[str], png: Path | None, html: Path | None, root: Path) -> None:
    from kiara_cli.console import output
    from kiara_cli.console.watched import show_watched
    from kiara_cli.core.lab.figures import save_png
    from kiara_cli.core.lab.page import save_text
    from kiara_cli.core.lab.records import find_run
    from kiara_cli.core.lab.watched import figure, statistics_page, watched
    from kiara_cli.errors import KiaraError

    if len(names) != 1:
        raise KiaraError("--statistics shows one run, layer by layer", "name one")
    run = find_run(names[0], root)
    kinds, written = watched(run), []
    for kind in kinds if png is not None else ():
        written.append(png.with_name(f"{png.stem}-{kind.what}{png.suffix or '.png'}"))  # type: ignore[union-attr]
        save_png(figure(kind), written[-1])
    if html is not None:
        save_text(statistics_page(run, kinds), html)
        written.append(html)
    if not written:
        return show_watched(kinds)
    output.note(f"Written: {', '.join(map(str, written))}")


@runs.command(**shown("runs remove"))
def remove(
    names: Several,
    checkpoints_only: Annotated[
        bool, typer.Option("--checkpoints-only", help="Remove the weights, keep the records.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    root: Root = RUNS_ROOT,
    debug: Debug = False,
) -> None:
    """Remove runs, after showing what goes and asking."""
    from kiara_cli.console import output
    from kiara_cli.console.runs import agreed, show_removal
    from kiara_cli.core.lab.records import find_run
    from kiara_cli.core.lab.removal import plan_removal, remove_run

    found = [find_run(name, root) for name in dict.fromkeys(names)]
    plans = [plan_removal(run, checkpoints_only) for run in found]
    show_removal(plans, checkpoints_only)
    if not yes and not agreed():
        return output.note("Nothing was removed.")
    for run in found:
        remove_run(run, checkpoints_only)
    output.note(f"Removed: {', '.join(run.name for run in found)}.")
