"""kiara runs ablate: a baseline and variants over several seeds, and what can be said of the differences."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kiara_cli.commands import completion
from kiara_cli.commands.options import DATA_ROOT, RUNS_ROOT, Debug, Json
from kiara_cli.commands.runs import Root

if TYPE_CHECKING:
    from kiara_cli.core.lab.study import Study


def ablate(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE.yaml] [KEY=VALUE]...",
            help="A study, and settings of all its runs.",
            autocompletion=completion.settings,
        ),
    ] = None,
    leave_one_out: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="BASE ADDED",
            help="Take back, one by one, what a config adds to another.",
            autocompletion=completion.configs,
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(metavar="N", min=2, help="Instead of the file's.")] = None,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Runs at a time; as many as there are cores for.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run and stop.")] = False,
    only_report: Annotated[bool, typer.Option("--report", help="Report what is there; train nothing.")] = False,
    root: Root = RUNS_ROOT,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Compare variants with a baseline over several seeds: kiara runs ablate FILE.yaml"""
    from kiara_cli.console import output
    from kiara_cli.console.ablate import show_report
    from kiara_cli.core.lab import ablate as studies
    from kiara_cli.core.lab.report import record, report
    from kiara_cli.core.lab.statistics import require_scipy
    from kiara_cli.core.lab.study_page import require_matplotlib, write_report
    from kiara_cli.core.lab.table import table_of

    require_scipy()
    require_matplotlib()
    study = wanted(words or [], leave_one_out, seeds, root)
    if not only_report and not train(study, root, jobs, dry_run):
        return
    place = studies.open_place(study, root)
    found = report(table_of(study, place.folder), place.folder, place.manifest)
    paths = write_report(found)
    if json_:
        output.record(record(found))
    else:
        show_report(found)
    output.hint(f"The report: {', '.join(map(str, paths[:3]))}")


def wanted(words: list[str], configs: tuple[str, str] | None, seeds: int | None, root: Path) -> Study:
    """Read the study that the words name. Raises KiaraError."""
    from kiara_cli.config.layers import check_word, is_override
    from kiara_cli.core.lab.study import leave_one_out, read_study
    from kiara_cli.errors import KiaraError

    files = [word for word in words if not is_override(word)]
    settings = [word for word in words if is_override(word)]
    if len(files) != (configs is None):
        for word in files:
            check_word(word)
        raise KiaraError(
            f"{len(files)} files of a study are given" + (" beside --leave-one-out" if configs else ""),
            "name one: kiara runs ablate FILE.yaml; or two configs: kiara runs ablate --leave-one-out BASE ADDED",
        )
    if configs is not None:
        return leave_one_out(*configs, settings, os.environ, seeds)
    return read_study(Path(files[0]), settings, os.environ, root, seeds)


def train(study: Study, root: Path, jobs: int | None, dry_run: bool) -> bool:
    """Make the runs that are missing; return whether there is something to report."""
    from kiara_cli.commands import signals
    from kiara_cli.config.schema import LoggingConfig
    from kiara_cli.console import logs, output
    from kiara_cli.console.ablate import StudyView, show_study
    from kiara_cli.core.lab import ablate as studies
    from kiara_cli.core.runtime.device import planning_rate

    logs.start_logging(LoggingConfig(level="warning"))
    studies.check_place(study, root)
    plans = studies.plans(study, DATA_ROOT, dry_run)
    first = next(iter(plans.values()))
    settings = studies.fixed(study, first)
    many = studies.jobs_for(settings, jobs)
    rate = planning_rate(first.runtime) / first.runtime.threads * int(settings["runtime.threads"])
    show_study(study, plans, rate, many, studies.there(study, root), dry_run)
    if dry_run:
        return False
    place = studies.open_place(study, root, settings)
    view, stopped = StudyView({name: plan.steps for name, plan in plans.items()}, many), None
    with signals.watched(), view.showing():
        for event in studies.run(study, place, DATA_ROOT, many, lambda: signals.received() is not None):
            view.show(event)
            stopped = event if isinstance(event, studies.Stopped) else None
    if stopped is not None:
        output.note(f"Stopped with {stopped.done} of {stopped.total} runs; those that were on their way are saved.")
        output.hint("To go on, give the same command again; --report says what is there so far.")
        raise typer.Exit(128 + (signals.received() or signals.SIGINT))
    return True
