"""From what is asked for to events, the one way in."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.config.load import Loaded, load_config
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.train import plan
from kiara_cli.core.train.events import Finished, Planned, Started
from kiara_cli.core.train.job import Job, run

DATA, RUNS = Path("data"), Path("checkpoints")


@pytest.fixture
def job(settings: tuple[str, ...]) -> Job:
    Path("text.txt").write_text("the cat sat on the mat and the dog sat on the log. " * 40)
    return Job(load_config(overrides=[*settings, "eval.sample_tokens=0"]), DATA, RUNS)


def over(*words: str) -> Loaded:
    return load_config(overrides=words)


def everything() -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path().rglob("*")}


def count_calls(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, calls: Counter[str]) -> None:
    function: Callable[..., Any] = getattr(module, name)

    def counting(*arguments: Any, **named: Any) -> Any:
        calls[name] += 1
        return function(*arguments, **named)

    monkeypatch.setattr(module, name, counting)


def test_a_start_plans_once_and_makes_the_batches_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()
    for name in ("settle", "make_batcher", "decide_runtime"):
        count_calls(monkeypatch, plan, name, calls)
    once = {"settle": 1, "make_batcher": 1, "decide_runtime": 1}
    planned, started, *_, finished = run(job)
    assert isinstance(planned, Planned)
    assert started == Started("text", RUNS / "text", 0, 6)
    assert isinstance(finished, Finished)
    assert calls == once
    calls.clear()
    _, again, *_, _ = run(dataclasses.replace(job, loaded=over("train.max_steps=8"), resume=True))
    assert again == Started("text", RUNS / "text", 6, 8)
    assert calls == once


def test_a_dry_run_uses_the_data_that_is_there_and_leaves_nothing_where_there_is_none(job: Job) -> None:
    dry = dataclasses.replace(job, dry_run=True, loaded=over(*words_of(job), "data.output=elsewhere"))
    before = everything()
    (planned,) = run(dry)
    assert isinstance(planned, Planned)
    assert planned.plan.data.made
    assert everything() == before
    list(run(job))
    before = everything()
    (planned,) = run(dataclasses.replace(job, dry_run=True))
    assert isinstance(planned, Planned)
    assert not planned.plan.data.made
    assert planned.plan.data.folder.parent == DATA
    assert everything() == before


def test_whoever_leaves_after_the_plan_of_a_resumed_run_gives_it_back(job: Job) -> None:
    list(run(job))
    events = run(dataclasses.replace(job, loaded=over("train.max_steps=8"), resume=True))
    assert isinstance(next(events), Planned)
    events.close()
    del events
    Run.find(RUNS, "text").lock().release()


def words_of(job: Job) -> list[str]:
    return [f"{key}={value}" for key, value in job.loaded.values.items()]
