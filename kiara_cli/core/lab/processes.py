"""Trainings in processes of their own, so that none sees another's threads, memory or random numbers.

In: an `Order`: whatever a process needs for one run. Out: the run's folder, and its `Ending`.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import signal
import threading
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any

from kiara_cli.config.layers import Layer
from kiara_cli.config.load import merge
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.lab.study import run_name
from kiara_cli.core.train.events import Finished
from kiara_cli.core.train.job import Job
from kiara_cli.core.train.job import run as train
from kiara_cli.errors import KiaraError

_stop: Any = None  # of a process that trains: the event that asks it to stop


@dataclass(frozen=True)
class Order:
    """One run to be made: whatever a process needs for it."""

    arm: str
    seed: int
    layers: tuple[Layer, ...]
    root: Path
    data: Path

    @property
    def name(self) -> str:
        return run_name(self.arm, self.seed)

    @property
    def run(self) -> Run:
        return Run(self.root, self.root / self.name)


@dataclass(frozen=True)
class Ending:
    """How a run ended: finished, diverged, interrupted or failed, and why."""

    status: str
    reason: str | None = None


def processes(jobs: int, stop: Any) -> Executor:
    """Return processes that train, and end with this one however it ends; for one run at a time a thread of this one.

    A run computes the same in either: its threads and its random numbers are its own.
    """
    if jobs == 1:
        return ThreadPoolExecutor(1, initializer=_listen, initargs=(stop,))
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(stop,))


def _listen(stop: Any) -> None:
    global _stop
    _stop = stop


def _begin(stop: Any) -> None:
    """Leave signals to the process that runs the study, which asks for a stop by `stop`; end if it is gone."""
    _listen(stop)
    logging.getLogger("kiara").addHandler(logging.NullHandler())
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # what is on disk is whole


def train_one(order: Order) -> Ending:
    """Train one run, or go on with it; one that cannot go on is begun anew."""
    run = order.run
    job = Job(merge(order.layers), order.data, order.root, name=order.name)
    try:
        if run.last.is_file():
            try:
                return _trained(dataclasses.replace(job, resume=True))
            except KiaraError:
                pass
        if run.folder.exists():
            shutil.rmtree(run.folder)
        return _trained(job)
    except KiaraError as error:
        return Ending("failed", f"{error.cause}; {error.remedy}")


def _trained(job: Job) -> Ending:
    *_, last = train(job, should_stop=lambda: _stop is not None and _stop.is_set())
    assert isinstance(last, Finished)
    return Ending(last.status, last.reason)
