"""The same records everywhere, and no network unless asked for."""

from __future__ import annotations

import importlib.util
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import files
from kiara_cli.core.data.prepare import Prepared
from kiara_cli.core.train import writers
from kiara_cli.core.train.build import begin
from kiara_cli.core.train.loop import train
from kiara_cli.core.train.plan import plan
from kiara_cli.core.train.resume import plan_resumed, resume
from kiara_cli.errors import KiaraError

ROOT = Path("checkpoints")
Configure = Callable[..., Config]


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    """Read a curve back with TensorBoard's own reader, which drops what a resumed run has taken back."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own imports
def test_tensorboard_shows_what_metrics_jsonl_says_also_after_a_resume(configure: Configure, data: Prepared) -> None:
    pytest.importorskip("tensorboard")
    training = begin(plan(configure("logging.writers=[tensorboard]"), data), ROOT)
    list(train(training))
    folder = training.run.folder / "tensorboard"
    assert [step for step, _ in scalars(folder, "loss")] == [1, 2, 3, 4, 5, 6]
    first = files.load(training.run.steps()[0])
    resumed = resume(plan_resumed(training.config, first, data), first, training.run)
    list(train(resumed))
    records = [json.loads(line) for line in (training.run.folder / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "val_loss", "lr"):
        said = [(record["step"], record[name]) for record in records if name in record]
        assert [step for step, _ in scalars(folder, name)] == [step for step, _ in said]
        for (_, shown), (_, value) in zip(scalars(folder, name), said, strict=True):
            assert shown == pytest.approx(value, rel=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of wandb's own imports
def test_wandb_works_offline_and_looks_no_address_up(
    configure: Configure, data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")

    def refuse(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        raise OSError("no network here")

    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    training = begin(plan(configure("logging.writers=[wandb]"), data), ROOT)
    list(train(training))
    wandb.teardown()  # its process writes the file on its own time
    (folder,) = (training.run.folder / "wandb").glob("offline-run-*")
    (file,) = folder.glob("run-*.wandb")
    assert b"val_loss" in file.read_bytes()
    assert asked == []


@pytest.mark.parametrize("writer", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_line_before_anything_is_written(
    configure: Configure, data: Prepared, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KiaraError, match=rf"the package {writer} is not installed; pip install 'kiara-slm\[track\]'"):
        begin(plan(configure(f"logging.writers=[{writer}]"), data), ROOT)
    assert not ROOT.exists()


def test_every_writer_that_may_be_named_exists() -> None:
    from kiara_cli.config.schema import WRITERS

    assert set(WRITERS) == set(writers.WRITERS)
