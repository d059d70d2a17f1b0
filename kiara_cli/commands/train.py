"""kiara train: from text, or a data folder that is there already, to a run folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from kiara_cli.commands import completion
from kiara_cli.commands.group import group, launch, restarts
from kiara_cli.commands.options import DATA_ROOT, RUNS_ROOT, ConfigFiles, Debug, HookFiles, Json, SkipBad, read

if TYPE_CHECKING:
    from kiara_cli.core.train.events import Finished
    from kiara_cli.core.train.job import Job

Texts = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PATH] [KEY=VALUE]...",
        help="Text to learn from, and settings such as model.n_layers=4.",
        autocompletion=completion.texts_or_settings,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="CHECKPOINT",
        help="Start a new run from these weights.",
        autocompletion=completion.checkpoints,
    ),
]
Name = Annotated[
    str | None,
    typer.Option("--name", help="Name the run; by default after its data.", autocompletion=completion.runs),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="RUN",
        help="Hold the run to this one: refuse more than one change.",
        autocompletion=completion.runs,
    ),
]
OneChange = Annotated[
    str | None,
    typer.Option("--change", metavar="NAME=KEY,KEY", help="With --baseline: settings that are one change."),
]


def train(
    words: Texts = None,
    config: ConfigFiles = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the newest run, or the one given by --name.")
    ] = False,
    from_: Weights = None,
    name: Name = None,
    baseline: Baseline = None,
    change: OneChange = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    skip_bad: SkipBad = False,
    allow_changed_data: Annotated[
        bool, typer.Option("--allow-changed-data", help="With --resume: go on although the data has changed.")
    ] = False,
    hooks: HookFiles = None,
    allow_changed_hooks: Annotated[
        bool, typer.Option("--allow-changed-hooks", help="With --resume: go on although your file of hooks changed.")
    ] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Train a model on text: kiara train FILE."""
    from kiara_cli.commands import signals

    with group() as world:
        from kiara_cli.core.lab.baseline import held_to
        from kiara_cli.core.train.job import Job

        given = read(words, config, command="train")
        job = Job(
            given.loaded,
            DATA_ROOT,
            RUNS_ROOT,
            source=given.word,
            name=name,
            weights=from_,
            resume=resume,
            allow_changed_data=allow_changed_data,
            hook_files=tuple(hooks or ()),
            allow_changed_hooks=allow_changed_hooks,
            skip_bad=skip_bad,
            dry_run=dry_run,
            world=world,
            launch=launch(os.environ) if world.size > 1 or restarts(os.environ) else None,
            restarted=restarts(os.environ) > 0,
            check=held_to(baseline, change, resume, RUNS_ROOT),
        )
        finished = show(job, json_)
    if finished is not None and finished.status == "diverged":
        raise typer.Exit(1)
    if finished is not None and finished.status == "interrupted":
        raise typer.Exit(128 + (signals.received() or signals.SIGINT))


def show(job: Job, json_: bool) -> Finished | None:
    """Train, showing each event; return the last one, or None where only the plan was asked for."""
    from kiara_cli.commands import signals
    from kiara_cli.console import logs, output
    from kiara_cli.console.plan import ends_by, show_plan
    from kiara_cli.console.preparing import describe, showing
    from kiara_cli.console.runs import show_outcome
    from kiara_cli.console.training import TrainingView, show_end
    from kiara_cli.core.checkpoint.run import Run
    from kiara_cli.core.lab.outcome import outcome
    from kiara_cli.core.train.events import Finished, Planned, Started
    from kiara_cli.core.train.job import run
    from kiara_cli.core.train.records import Recorded, record_of

    with showing() as report:
        events = run(job, report, should_stop=lambda: signals.received() is not None)
        planned = next(events)
    assert isinstance(planned, Planned)
    if not job.resume:
        describe(planned.plan.data, planned.plan.config.tokenizer.vocab_size if job.weights is None else None)
        show_plan(planned.plan, RUNS_ROOT, job.name, job.dry_run, json_)
    started = next(events, None)
    if not isinstance(started, Started):
        return None
    if job.resume:
        limit = ends_by(planned.plan)
        ranks = f", {started.together}" if started.together else ""
        output.note(f"Resuming {started.run} at step {started.step} of {started.steps} ({limit}{ranks}).")
    view = TrainingView(started, lambda: signals.received() is not None)
    first = job.world.is_first
    logs.start_logging(planned.plan.config.logging, started.folder if first else None, view.console)
    with signals.watched(patient=job.world.size > 1), view.showing():
        for event in events:
            view.show(event)
            if json_ and isinstance(event, Recorded):
                output.record(record_of(event))
    assert isinstance(event, Finished)
    show_end(event, planned.plan)
    if first and (held := outcome(Run(RUNS_ROOT, started.folder), RUNS_ROOT)) is not None:
        show_outcome(held)
    return event
