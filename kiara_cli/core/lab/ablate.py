"""A study's runs: which are there, which are to be made, in which order; made in processes of their own.

In: a `Study`. Out: events as runs start, go on and end; under checkpoints/<study>/ a folder for every run, and
study.json: what the study was when it began. A run that is there is not made again, one that was stopped goes on.

Runs go seed by seed, so that a study which is stopped has whole blocks. Each run computes on the same number of
threads, in the precision and by the code that were decided for the first one, so that neither how many go at once nor
what else the machine does changes a result.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

from kiara_cli.config.load import merge
from kiara_cli.core.checkpoint.run import STUDY, Lock, Run, now
from kiara_cli.core.lab import looks
from kiara_cli.core.lab.processes import Ending, Order, processes, train_one
from kiara_cli.core.lab.study import Study, differences, run_name
from kiara_cli.core.lab.table import DONE, measured, table_of
from kiara_cli.core.runtime.threads import allowed_threads
from kiara_cli.core.train.events import Planned
from kiara_cli.core.train.job import Job
from kiara_cli.core.train.job import run as train
from kiara_cli.core.train.plan import Plan
from kiara_cli.errors import KiaraError

ASK = 0.5  # seconds between two looks at how far the runs are
FIXED = ("device", "dtype", "compile", "native")  # of runtime, decided for all runs by the baseline's plan


@dataclass(frozen=True)
class RunStarted:
    order: Order
    number: int  # of `total`, those included that were there before
    total: int


@dataclass(frozen=True)
class RunGoesOn:
    """How far the runs that are being made are: steps by order, of so many."""

    steps: Mapping[str, int]


@dataclass(frozen=True)
class RunEnded:
    order: Order
    ending: Ending
    value: float  # what is measured; NaN where there is none
    seconds: float | None


@dataclass(frozen=True)
class Stopped:
    """The study was asked to stop; what is there stays."""

    done: int
    total: int


@dataclass(frozen=True)
class GivenUp:
    """A variant gets no more seeds, by the rule that the study declares."""

    arm: str
    seeds: int
    told: bool


Event: TypeAlias = RunStarted | RunGoesOn | RunEnded | Stopped | GivenUp


@dataclass(frozen=True)
class Place:
    """A study's folder, claimed for this process."""

    folder: Path
    lock: Lock | None
    manifest: Mapping[str, Any]


def plans(study: Study, data: Path, dry_run: bool = False) -> dict[str, Plan]:
    """Plan a run of each arm, which prepares the data. Raises KiaraError for what could not be trained."""
    found = {}
    for arm in study.arms:
        job = Job(merge(study.layers_of(arm, study.seeds[0])), data, data, dry_run=dry_run)
        events = train(job)
        planned = next(events)
        events.close()  # type: ignore[attr-defined]  # nothing of the run has been written yet
        assert isinstance(planned, Planned)
        found[arm.name] = planned.plan
    return found


def fixed(study: Study, plan: Plan) -> dict[str, Any]:
    """Return the settings that are the same for all runs: of `auto`, what was decided for the baseline; one thread.

    More threads where the baseline sets a number: small models gain more from several runs at once.
    """
    runtime = plan.config.runtime
    threads = study.configs[study.arms[0].name].runtime.threads
    wanted: dict[str, Any] = {f"runtime.{key}": getattr(runtime, key) for key in FIXED}
    return wanted | {"runtime.threads": 1 if threads == "auto" else threads}


def jobs_for(settings: Mapping[str, Any], asked: int | None) -> int:
    """Return how many runs go at once: as asked, or one for each core that their threads leave."""
    return asked or max(1, allowed_threads().threads // int(settings["runtime.threads"]))


def there(study: Study, runs: Path) -> int:
    """Count the runs that have ended already."""
    return int(table_of(study, runs / study.name).done.sum())


def check_place(study: Study, runs: Path) -> dict[str, Any] | None:
    """Return what study.json says, None for a new study. Raises KiaraError if another thing has that name."""
    folder = runs / study.name
    if (folder / "run.json").exists():
        raise KiaraError(f"{folder} is a run, not a study", "give the study another name, in its file")
    manifest = read_manifest(folder)
    if manifest is None and folder.exists() and any(folder.iterdir()):
        raise KiaraError(f"{folder} is there and is no study", "give the study another name, or move the folder away")
    if manifest is not None and (changed := differences(manifest["definition"], study)):
        raise KiaraError(
            f"{study.origin} has changed since the study {folder} began: {', '.join(changed)}",
            "change it back, or give it another name for a new study",
        )
    return manifest


def open_place(study: Study, runs: Path, settings: Mapping[str, Any] | None = None) -> Place:
    """Open a study's folder under `runs`; with `settings`, claim it and note what is run. Raises KiaraError.

    The settings of the first time stay.
    """
    folder, manifest = runs / study.name, check_place(study, runs)
    if settings is None and manifest is None:
        raise KiaraError(f"there is no study {folder} yet", "leave out --report to run it")
    if settings is None:
        return Place(folder, None, manifest or {})
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = Lock(folder)
    except KiaraError:
        raise KiaraError(
            f"the study {folder} is being run by another process", "wait for it, or give this one another name"
        ) from None
    known = manifest or {"settings": dict(settings), "begun": now(), "seeds": []}
    seeds = [*known["seeds"]]
    if not seeds or seeds[-1]["seeds"] != list(study.seeds):
        seeds.append({"at": now(), "seeds": list(study.seeds), "runs_there": len(list(folder.glob("*/run.json")))})
    written = {**known, "definition": study.definition, "seeds": seeds}
    Run(runs, folder).write_text(STUDY, json.dumps(written, indent=1) + "\n")
    return Place(folder, lock, written)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read study.json; None where there is none. Raises KiaraError for a damaged one."""
    path = folder / STUDY
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: found[name] for name in ("settings", "begun", "seeds", "definition")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KiaraError(f"{path} is damaged ({error!r})", "move the folder away and run the study again") from None


def orders(study: Study, place: Place, data: Path) -> list[Order]:
    """List all runs, seed by seed."""
    settings = place.manifest["settings"]
    return [
        Order(arm.name, seed, study.layers_of(arm, seed, settings), place.folder, data)
        for seed in study.seeds
        for arm in study.arms
    ]


def run(
    study: Study,
    place: Place,
    data: Path,
    jobs: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
    make: Callable[[Order], Ending] = train_one,
    executor: Callable[[int, Any], Executor] = processes,
) -> Iterator[Event]:
    """Make the runs that are missing, `jobs` at a time; `make` and `executor` take the place of training processes.

    Raises KiaraError if a process was killed, as by a machine without memory.
    """
    stop = get_context("spawn").Event() if executor is processes else threading.Event()
    every = orders(study, place, data)
    waiting = [order for order in every if order.run.status not in DONE]
    running: dict[Future[Ending], Order] = {}
    ended = len(every) - len(waiting)
    given_up: set[str] = set()
    with executor(jobs, stop) as pool:
        try:
            while (waiting or running) and not (stop.is_set() and not running):
                if should_stop():
                    stop.set()
                yield from _given_up(study, place, given_up)
                waiting = [order for order in waiting if order.arm not in given_up]
                while waiting and len(running) < jobs and not stop.is_set() and _may_start(study, place, waiting[0]):
                    order = waiting.pop(0)
                    running[pool.submit(make, order)] = order
                    yield RunStarted(order, ended + len(running), len(every))
                done, _ = wait(running, timeout=ASK, return_when=FIRST_COMPLETED)
                yield RunGoesOn({order.name: _step(order) for order in running.values()})
                for future in done:
                    order = running.pop(future)
                    ending = future.result()
                    ended += ending.status in DONE
                    yield _ended(study, order, ending)
        except BrokenProcessPool:
            raise KiaraError(
                "a training process was killed, perhaps for want of memory",
                "run the same again, which goes on from there; with --jobs 1 it needs the least memory",
            ) from None
        finally:
            stop.set()
    if waiting or ended + sum(order.arm in given_up for order in every) < len(every):
        yield Stopped(ended, len(every))


def _may_start(study: Study, place: Place, order: Order) -> bool:
    """With declared looks, a seed beyond one waits for all runs of that look."""
    index = study.seeds.index(order.seed)
    before = [look for look in study.looks if look <= index]
    if not before:
        return True
    first = study.seeds[: before[-1]]
    arms = [arm for arm in study.arms if arm.name not in _decided(study, place)]
    return all(
        Run(place.folder, place.folder / run_name(arm.name, seed)).facts().get("status") in DONE
        for arm in arms
        for seed in first
    )


def _decided(study: Study, place: Place) -> dict[str, looks.Decision]:
    """Return the variants that have their answer, or all where every one has, the baseline included."""
    if not study.looks:
        return {}
    table = table_of(study, place.folder)
    decided = looks.decide(table.values, study.looks, study.worth, study.equal_noise, table.done)
    found = {arm.name: each for arm, each in zip(study.variants, decided, strict=True) if each.stops}
    if len(found) == len(study.variants):
        found[study.arms[0].name] = looks.Decision(max(each.seeds for each in decided), None, stops=True)
    return found


def _given_up(study: Study, place: Place, known: set[str]) -> Iterator[GivenUp]:
    for name, decision in _decided(study, place).items():
        if name not in known:
            known.add(name)
            yield GivenUp(name, decision.seeds, decision.comparison is not None and decision.comparison.told)


def _ended(study: Study, order: Order, ending: Ending) -> RunEnded:
    seconds = order.run.facts().get("seconds")
    return RunEnded(order, ending, measured(order.run, study.measure), seconds)


def _step(order: Order) -> int:
    rows = order.run.history().rows
    return int(rows[-1]["step"]) if rows else 0
