"""The one way into training: from what is asked for to events. Behind `kiara train` and `api.train`.

In: a `Job`: the layers of the config, and what to start from. Out: `Planned`, `Started`, then the loop's events.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from kiara_cli.config.load import Loaded, adopt, from_mapping, to_mapping
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.checkpoint.find import load_for_resume, open_checkpoint, open_for_resume
from kiara_cli.core.checkpoint.run import Lock, Run, remove
from kiara_cli.core.checkpoint.vocabulary import with_rows
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.data.mixture import Part
from kiara_cli.core.data.prepare import prepare, reopen
from kiara_cli.core.data.source import Report, means_of
from kiara_cli.core.runtime.parallel import ALONE, World
from kiara_cli.core.runtime.ranks import first_then_others, from_first, take_device
from kiara_cli.core.train.build import begin, known
from kiara_cli.core.train.events import Event, Planned, Started
from kiara_cli.core.train.loop import train
from kiara_cli.core.train.parts import common_tokenizer, gather, recorded
from kiara_cli.core.train.plan import Plan, plan
from kiara_cli.core.train.resume import plan_resumed, resume, resumed_config
from kiara_cli.core.train.state import Training
from kiara_cli.core.train.writers import check_writers
from kiara_cli.errors import KiaraError

Facts: TypeAlias = Mapping[str, Any]
Check: TypeAlias = Callable[[Config, Facts], Facts]

log = logging.getLogger("kiara.train")


def accept(config: Config, facts: Facts) -> Facts:
    """Begin whatever was planned, and note nothing more."""
    return {}


@dataclass(frozen=True)
class Job:
    """A training as it is asked for."""

    loaded: Loaded
    data_root: Path
    runs_root: Path
    source: str | None = None  # in the place of data.source
    name: str | None = None  # of the run
    weights: str | None = None  # a checkpoint to start a new run from
    resume: bool = False
    allow_changed_data: bool = False  # on resuming
    hook_files: tuple[str, ...] = ()  # the person's own hooks: Python that is run
    allow_changed_hooks: bool = False  # on resuming
    skip_bad: bool = False  # leave out what cannot be read of the data
    dry_run: bool = False  # stop after `Planned`, and leave nothing behind
    world: World = ALONE  # the processes that do it together
    launch: str | None = None  # of torchrun: what names it, the same when it starts its processes again
    restarted: bool = False  # torchrun has started them again: go on where they were
    # Of a new run, asked before anything of it is written: raises KiaraError, or returns more facts for run.json.
    check: Check = accept


def run(
    job: Job, report: Report = lambda progress: None, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
    """Prepare the data, plan, build and train; `report` is told how far the data is. Raises KiaraError."""
    if job.resume and (job.weights or job.source or job.dry_run):
        raise KiaraError(
            "--resume continues a run as it was",
            "leave out the path, --from and --dry-run, or start a new run without --resume",
        )
    if job.allow_changed_data and not job.resume:
        raise KiaraError("--allow-changed-data goes with --resume", "leave it out: a new run takes the data as it is")
    if job.allow_changed_hooks and not job.resume:
        raise KiaraError(
            "--allow-changed-hooks goes with --resume", "leave it out: a new run takes hooks as they are"
        )
    if job.world.size > 1:
        take_device(job.world)
    if job.restarted and not job.resume and (begun := _begun_before(job)) is not None:
        job = dataclasses.replace(job, resume=True, name=begun)
    else:
        job = dataclasses.replace(job, restarted=False)
    training = yield from (_resumed if job.resume else _begun)(job, report)
    if training is not None:
        progress, planned = training.progress, training.plan
        yield Started(training.run.name, training.run.folder, progress.step, planned.steps, planned.together)
        yield from train(training, should_stop)


def _begun(job: Job, report: Report) -> Generator[Event, None, Training | None]:
    """Plan a new run and begin it; with `weights`, on that checkpoint's tokenizer and model."""
    config, weights, tokenizer = job.loaded.config, None, None
    if job.weights is not None:
        weights, warnings = open_checkpoint(job.weights)
        for warning in warnings:
            log.warning(warning)
        tokenizer = weights.make_tokenizer()
        weights = with_rows(weights, tokenizer.size)
        config = adopt(job.loaded, weights.config, ("tokenizer", "model"), str(weights.path))
        weights.check_trainable(frozen=config.train.lora.rank > 0)
    elif config.train.lora.rank:
        raise KiaraError(
            f"train.lora.rank={config.train.lora.rank} adapts a model that is there",
            "name it: --from CHECKPOINT; or train all weights of a new one: train.lora.rank=0",
        )
    load_hooks(config, job.hook_files)
    if job.source is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=job.source))
    if job.dry_run:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, output=None))
    check_writers(config)
    Run.check(job.runs_root, job.name)
    means = means_of(config, job.skip_bad)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory())) if job.dry_run else None

        def prepared() -> tuple[Prepared, list[Part]]:
            common = tokenizer or common_tokenizer(config, means, report)
            data = prepare(config.data, config.tokenizer, job.data_root, common, report, means, scratch)
            return data, gather(config, data.tokenizer, weights, scratch or job.data_root, report, means)

        data, parts = first_then_others(job.world, prepared)
        planned, facts = _planned(config, data, weights, job, parts)
        yield Planned(planned)
    if job.dry_run:
        return None
    return begin(planned, job.runs_root, weights, job.name, {**facts, "launch": job.launch} if job.launch else facts)


def load_hooks(
    config: Config, files: Sequence[str], recorded: Mapping[str, str] | None = None, allow_changed: bool = False
) -> None:
    """Run the person's files of hooks and check that the config's hooks are there, before anything takes time.

    Of a run that is resumed, they have to be the same as `recorded`. Raises KiaraError.
    """
    if not config.hooks and not files:
        return
    from kiara_cli.core.hooks.asked import ask
    from kiara_cli.core.hooks.loading import check_same, use_files
    from kiara_cli.core.hooks.training import note_idle

    note_idle(use_files(files), config.hooks)
    ask(config.hooks, config.model)
    if recorded is not None:
        check_same(recorded, config.hooks, allow_changed)


def _planned(
    config: Config, data: Prepared, weights: Checkpoint | None, job: Job, parts: Sequence[Part]
) -> tuple[Plan, Facts]:
    """Plan a new run and have it checked; data that was made just now for a run that cannot be is not kept.

    What the first of several processes has decided of its machine holds for all.
    """
    check = job.check
    try:
        if not job.world.is_first:
            config = from_mapping(from_first(job.world, dict[str, Any]), "the first process").config
            planned = plan(config, data, weights, parts, job.world)
            for key, reason in planned.unmet.items():
                raise KiaraError(
                    f"process {job.world.rank} cannot do runtime.{key}=true: {reason}", "set it to false"
                )
            return planned, {}
        planned = plan(config, data, weights, parts, job.world)
        facts = check(planned.config, known(planned, weights)) if check is not accept else {}
        from_first(job.world, lambda: to_mapping(planned.config))
        return planned, facts
    except KiaraError:
        if data.made:
            shutil.rmtree(data.folder)
            with suppress(OSError):  # others are in it
                data.folder.parent.rmdir()
        raise


def _resumed(job: Job, report: Report) -> Generator[Event, None, Training]:
    """Claim a run, load its last good checkpoint, plan what is left and go on."""
    name = from_first(job.world, lambda: Run.find(job.runs_root, job.name).name)
    found = Run(job.runs_root, job.runs_root / name, job.world.is_first)
    lock = found.lock()
    try:
        return (yield from _continued(job, report, found, lock))
    except BaseException:
        lock.release()
        raise


def _continued(job: Job, report: Report, found: Run, lock: Lock) -> Generator[Event, None, Training]:
    """Do that with the run claimed."""
    checkpoint = _newest(job.world, found)
    if job.restarted:  # as it was: what was typed has been heeded
        config = from_mapping(checkpoint.config, str(checkpoint.path)).config
    else:
        config = resumed_config(job.loaded, checkpoint)
    tokenizer = checkpoint.make_tokenizer()
    load_hooks(config, job.hook_files, found.facts().get("hook_files", {}), job.allow_changed_hooks)
    means = means_of(config, job.skip_bad)
    if job.allow_changed_data:
        data = prepare(config.data, config.tokenizer, job.data_root, tokenizer, report, means)
    else:
        try:
            own = checkpoint.data
            data = reopen(config.data, config.tokenizer, job.data_root, tokenizer, own, report, means)
        except KiaraError as error:
            raise KiaraError(error.cause, "restore it, or go on with it as it is: --allow-changed-data") from None
    parts = recorded(checkpoint.data.get("parts", []), job.data_root)
    planned = plan_resumed(config, checkpoint, data, job.allow_changed_data, parts, job.world)
    yield Planned(planned)
    return resume(planned, checkpoint, found, lock)


def _newest(world: World, run: Run) -> Checkpoint:
    """Load the newest whole checkpoint of a run, in all processes the one that the first one finds."""
    if world.is_first:
        checkpoint, warnings = open_for_resume(run)
        for warning in warnings:
            log.warning(warning)
        from_first(world, lambda: checkpoint.path.name)
        return checkpoint
    return load_for_resume(run.folder / from_first(world, str))


def _begun_before(job: Job) -> str | None:
    """Name the run that these processes were training before they were started again, if it can be resumed.

    Without a checkpoint it begins anew, under its name.
    """

    def name() -> str | None:
        for path in job.runs_root.glob("*/run.json"):
            run = Run(job.runs_root, path.parent)
            if run.facts().get("launch") == job.launch:
                if run.steps():
                    return run.name
                log.warning("%s had no checkpoint yet: it begins anew", run.folder)
                remove(run.folder)
        return None

    return from_first(job.world, name)
