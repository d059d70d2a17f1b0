"""kiara train: from text, or a data folder that is there already, to a run folder."""

from __future__ import annotations

import dataclasses
import logging
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from kiara_cli.commands.options import DATA_ROOT, RUNS_ROOT, ConfigFiles, Debug, Given, Json, read, with_source
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from kiara_cli.core.train.events import Finished
    from kiara_cli.core.train.start import Training


def train(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH] [KEY=VALUE]...", help="Text to learn from, and settings such as model.n_layers=4."
        ),
    ] = None,
    config: ConfigFiles = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the newest run, or the one given by --name.")
    ] = False,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="CHECKPOINT", help="Start a new run from these weights.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name the run; by default after its data.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    allow_changed_data: Annotated[
        bool, typer.Option("--allow-changed-data", help="With --resume: go on although the data has changed.")
    ] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Train a model on text: kiara train FILE."""
    from kiara_cli.commands import signals
    from kiara_cli.console import output

    given = read(words, config)
    if resume and (from_ or given.word or dry_run):
        raise KiaraError(
            "--resume continues a run as it was",
            "leave out the path, --from and --dry-run, or start a new run without --resume",
        )
    if dry_run:
        return show_plan(given, name, json_)
    if allow_changed_data and not resume:
        raise KiaraError("--allow-changed-data goes with --resume", "leave it out: a new run takes the data as it is")
    training = resumed(given, name, allow_changed_data) if resume else started(given, name, from_)
    finished = run(training, json_)
    best = finished.best or finished.last
    if finished.status == "diverged":
        output.warn(f"diverged at {finished.reason}")
        good = f"The last good checkpoint is {finished.last}:" if finished.last else "There is no checkpoint yet:"
        again = f"kiara train --from {finished.last} train.lr=…" if finished.last else "kiara train … train.lr=…"
        output.hint(f"{good} start again with a lower rate.  {again}")
        raise typer.Exit(1)
    if finished.status == "interrupted":
        output.note(f"Stopped and saved at step {finished.step}.")
        output.hint(f"To go on:  kiara train --resume --name {finished.run}")
        raise typer.Exit(128 + (signals.received() or signals.SIGINT))
    if finished.reason:
        output.note(f"Ended at step {finished.step}: {finished.reason}.")
    prompt = shlex.quote(training.config.eval.sample_prompt or "Once upon a time")
    talks = training.data.meta.conversations
    first = f"kiara chat {best}" if talks else f"kiara generate {best} --prompt {prompt}"
    output.hint(f"Try it:      {first}\nMeasure it:  kiara eval {best}")


def show_plan(given: Given, name: str | None, json_: bool) -> None:
    """Prepare the data in a temporary place and print what training would do."""
    import tempfile
    from pathlib import Path

    from kiara_cli.console import output
    from kiara_cli.console.plan import plan_record, plan_rows
    from kiara_cli.console.preparing import means_of
    from kiara_cli.core.data.prepare import prepare
    from kiara_cli.core.train.start import plan

    config = with_source(given, given.loaded.config)
    with tempfile.TemporaryDirectory() as folder:
        planned = plan(config, prepare(config.data, config.tokenizer, Path(folder), means=means_of(config)))
        if json_:
            output.record(plan_record(planned))
        else:
            output.facts("The plan (nothing was written)", plan_rows(planned, RUNS_ROOT, name), to_stdout=True)


def started(given: Given, name: str | None, from_: str | None) -> Training:
    """Prepare the data and start a new run; with `from_`, on that checkpoint's weights, tokenizer and model."""
    from kiara_cli.config.load import adopt
    from kiara_cli.console import output
    from kiara_cli.console.plan import plan_rows
    from kiara_cli.console.preparing import prepare_showing
    from kiara_cli.core.checkpoint.find import open_checkpoint
    from kiara_cli.core.checkpoint.run import Run
    from kiara_cli.core.train import start
    from kiara_cli.core.train.writers import check_writers

    weights = None
    if from_ is not None:
        weights, warnings = open_checkpoint(from_)
        for warning in warnings:
            output.warn(warning)
        weights.check_trainable()
        config = adopt(given.loaded, weights.config, ("tokenizer", "model"), str(weights.path))
    else:
        config = given.loaded.config
    config = with_source(given, config)
    check_writers(config)
    tokenizer = weights.make_tokenizer() if weights else None
    Run.check(RUNS_ROOT, name)
    data = prepare_showing(config, DATA_ROOT, tokenizer, check=lambda data: start.plan(config, data))
    planned = start.plan(config, data)
    output.facts("The plan", plan_rows(planned, RUNS_ROOT, name))
    return start.begin(config, data, RUNS_ROOT, weights, name)


def resumed(given: Given, name: str | None, allow_changed_data: bool) -> Training:
    """Claim a run, load its last good checkpoint, check that its data is the same, and go on."""
    from kiara_cli.console import output
    from kiara_cli.console.preparing import prepare_showing
    from kiara_cli.core.checkpoint.find import open_for_resume
    from kiara_cli.core.checkpoint.run import Run
    from kiara_cli.core.train.resume import resume, resumed_config

    found = Run.find(RUNS_ROOT, name)
    lock = found.lock()
    checkpoint, warnings = open_for_resume(found)
    for warning in warnings:
        output.warn(warning)
    config = resumed_config(given.loaded, checkpoint)
    tokenizer = checkpoint.make_tokenizer()
    if allow_changed_data:
        data = prepare_showing(config, DATA_ROOT, tokenizer)
    else:
        try:
            data = prepare_showing(config, DATA_ROOT, tokenizer, checkpoint.data)
        except KiaraError as error:
            raise KiaraError(error.cause, "restore it, or go on with it as it is: --allow-changed-data") from None
    training = resume(config, checkpoint, data, found, lock, allow_changed_data)
    if checkpoint.data["hash"] != data.meta.hash:
        output.warn(f"the data has changed since step {training.progress.step}: from here on it is another training")
    stored = checkpoint.config["train"]["max_steps"]
    if config.train.max_steps != stored:
        output.note(f"The learning rate is planned anew: {config.train.max_steps} steps instead of {stored}.")
    output.note(f"Resuming {found.name} at step {training.progress.step} of {training.total_steps}.")
    return training


def run(training: Training, json_: bool) -> Finished:
    """Train, showing each event; return the last one."""
    from kiara_cli.commands import signals
    from kiara_cli.console import logs, output
    from kiara_cli.console.training import TrainingView
    from kiara_cli.core.train.events import Evaluated, Finished, Skipped, Stepped
    from kiara_cli.core.train.loop import record_of
    from kiara_cli.core.train.loop import train as train_loop

    view = TrainingView(training.total_steps, training.run.name, lambda: signals.received() is not None)
    logs.start_logging(training.config.logging.level, training.run.folder, view.console)
    log = logging.getLogger("kiara.train")
    finished = None
    with signals.watched() as should_stop, view.showing():
        for event in train_loop(training, should_stop):
            log.debug("%s", event)
            view.show(event)
            if isinstance(event, Finished):
                finished = event
            elif json_ and isinstance(event, Stepped | Skipped | Evaluated):
                output.record(record_of(event))
    assert finished is not None
    if json_:
        paths = {"best": finished.best and str(finished.best), "last": finished.last and str(finished.last)}
        output.record(dataclasses.asdict(finished) | paths)
    return finished
