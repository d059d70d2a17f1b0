"""Two processes train as one does: the same gradients, losses and weights; stopped, resumed and killed as one.

All of them are forks of this process, and those that can share one start do.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forks
import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from kiara_cli.app import main
from kiara_cli.config.load import load_config
from kiara_cli.core.checkpoint.find import load_for_resume, open_checkpoint, open_for_resume
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.runtime.parallel import ALONE, World
from kiara_cli.core.train import loop
from kiara_cli.core.train.events import Evaluated, Event, Finished, Stepped
from kiara_cli.core.train.job import Job, run
from kiara_cli.core.train.loop import train
from kiara_cli.core.train.spread import shares_in_words, whole
from kiara_cli.core.train.state import Training
from kiara_cli.errors import KiaraError

SETTINGS = (
    "data.source=text.txt", "tokenizer.kind=char", "model.context_length=16", "model.emb_dim=16", "model.n_heads=2",
    "model.n_layers=2", "train.max_steps=6", "train.log_interval=1", "train.eval_interval=3",
    "train.checkpoint_interval=2", "train.warmup_steps=0", "train.lr=0.01", "eval.sample_tokens=2",
    "eval.batch_size=3", "eval.max_tokens=200", "runtime.device=cpu", "runtime.dtype=fp32", "runtime.threads=1",
    "runtime.native=false",
)  # fmt: skip
CASES = {  # name → how the model is spread, and more settings; what they compute is what one process computes
    "sgd": ("ddp", ("train.optimizer=sgd", "train.batch_size=4", "train.lr=0.3")),
    "muon, accumulated": ("ddp", ("train.optimizer=muon", "train.batch_size=3", "train.accumulation=3")),
    "adamw, conversations": ("ddp", ("data.source=talks.jsonl", "train.optimizer=adamw", "train.batch_size=3")),
    "average, clipped": ("ddp", ("train.ema_decay=0.5", "train.grad_clip=0.01", "train.optimizer=sgd")),
    "pairs": ("ddp", ("data.source=pairs.jsonl", "train.objective=dpo", "train.batch_size=6")),
    "shared out, sgd, clipped": ("fsdp", ("train.optimizer=sgd", "train.batch_size=5", "train.grad_clip=0.01")),
    "shared out, muon": ("fsdp", ("train.optimizer=muon", "train.batch_size=3", "train.accumulation=2",
                                  "model.tied_head=false", "train.recompute=true")),
    "shared out, adamw, conversations, average": (
        "fsdp", ("data.source=talks.jsonl", "train.optimizer=adamw", "train.batch_size=3", "train.ema_decay=0.5"),
    ),
}  # fmt: skip


def write_texts() -> None:
    random.seed(1)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "some", "dog", "ran", "over", "an", "old", "log", "rain"]
    Path("text.txt").write_text(" ".join(random.choice(words) for _ in range(1500)))

    def some(most: int) -> str:
        return " ".join(random.choice(words) for _ in range(random.randint(1, most)))[:14]

    talks = [
        [{"role": "user", "content": some(2)[:4]}, {"role": "assistant", "content": some(3)[:7]}] for _ in range(90)
    ]
    Path("talks.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    pairs = [{"prompt": some(1)[:3], "chosen": some(2)[:6], "rejected": some(2)[:5] + "!"} for _ in range(80)]
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def job(name: str, *words: str, world: World = ALONE, **more: Any) -> Job:
    loaded = load_config(
        overrides=(*SETTINGS, *(("data.source=text.txt",) if not more.get("resume") else ()), *words)
    )
    return Job(loaded, Path("data"), Path("checkpoints"), name=name, world=world, **more)


def numbers(events: list[Event]) -> dict[str, list[float]]:
    steps = [event for event in events if isinstance(event, Stepped)]
    measured = [event.metrics for event in events if isinstance(event, Evaluated)]
    return {
        "loss": [event.loss for event in steps],
        "norm": [event.grad_norm for event in steps],
        "margin": [event.hooks.get("reward_margin", 0.0) for event in steps],
        "val_loss": [each.loss for each in measured],
        "accuracy": [each.accuracy for each in measured],
    }


def trained(asked: Job, should_stop: Callable[[Training], bool] = lambda training: False) -> dict[str, Any]:
    """Train as a job asks; return the numbers of the events, the first gradients and how it ended."""
    gradients: list[dict[str, Tensor]] = []
    from kiara_cli.core.train import job as module

    def watched(training: Training, stop: Callable[[], bool]) -> Iterator[Event]:
        step = training.optimizer.step

        def noted(*arguments: Any) -> None:
            named = training.model.named_parameters()
            gradients.append({name: whole(weight.grad).clone() for name, weight in named if weight.grad is not None})
            step(*arguments)

        training.optimizer.step = noted  # type: ignore[method-assign]
        return train(training, lambda: should_stop(training))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train", watched)
        events = list(run(asked))
    ended = events[-1]
    assert isinstance(ended, Finished)
    return {"gradients": gradients[:2], "status": ended.status, "step": ended.step, **numbers(events)}


def of_two(world: World) -> dict[str, Any]:
    """What two processes do at one start: all cases, and runs to be resumed by another number of processes."""
    found = {}
    for name, (parallel, words) in CASES.items():
        asked = job(f"two-{len(found)}", "runtime.parallel=" + parallel, *words, world=world)
        found[name] = trained(asked)
    for parallel in ("ddp", "fsdp"):
        stopped = job(f"stopped-{parallel}", "train.ema_decay=0.5", f"runtime.parallel={parallel}", world=world)
        asks = world.rank == 1  # the other is not asked to stop
        found[parallel] = trained(stopped, lambda training, asks=asks: asks and training.progress.step == 2)
        name = f"begun-{parallel}"
        found[name] = trained(job(name, f"runtime.parallel={parallel}", world=world, resume=True))
    with pytest.MonkeyPatch.context() as patch:
        if world.rank == 1:
            patch.setattr(FileSystemWriter, "write_data", no_room)
        with pytest.raises(KiaraError) as caught:
            trained(job("full", world=world))
    return found | {"full": str(caught.value)}


def no_room(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """What each of two processes found; the working folder holds their runs."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("two"))
    write_texts()
    for parallel in ("ddp", "fsdp"):
        trained(job(f"begun-{parallel}", "train.ema_decay=0.5"), lambda training: training.progress.step == 3)
    yield forks.together(2, of_two)
    os.chdir(before)


@pytest.fixture(autouse=True)
def _there(two: Any, _alone: None, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.chdir(tmp_path_factory.getbasetemp() / "two0")


@pytest.mark.parametrize("name", CASES)
def test_two_processes_compute_what_one_does(two: list[dict[str, Any]], name: str) -> None:
    one, (first, second) = trained(job(f"one-{name[:3]}", *CASES[name][1])), (each[name] for each in two)
    for key in ("loss", "norm", "val_loss", "accuracy", "margin"):
        assert first[key] == second[key], "all processes know the same"
        assert first[key] == pytest.approx(one[key], abs=1e-4), key
    for ours, theirs in zip(one["gradients"], first["gradients"], strict=True):
        for weight, gradient in ours.items():
            assert torch.allclose(theirs[weight], gradient, atol=1e-5, rtol=1e-4), weight


@pytest.fixture(scope="module")
def straight(two: Any) -> dict[str, Any]:
    """A run of one process that was never stopped."""
    return trained(job("straight", "train.ema_decay=0.5"))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_goes_on_with_another_number_of_processes(
    two: list[dict[str, Any]], straight: dict[str, Any], parallel: str
) -> None:
    assert [(each[parallel]["status"], each[parallel]["step"]) for each in two] == [("interrupted", 3)] * 2
    for found in (two[0][f"begun-{parallel}"], trained(job(f"stopped-{parallel}", resume=True))):
        assert found["status"] == "finished"
        for key in ("loss", "norm"):
            assert found[key] == pytest.approx(straight[key][3:], abs=1e-4)
        assert found["val_loss"][-1] == pytest.approx(straight["val_loss"][-1], abs=1e-4), "of the average"


def sharded(parallel: str, name: str) -> Run:
    """Return a copy of a run of two processes whose newest checkpoint is a folder, of step 4."""
    number = next(number for number, case in enumerate(CASES.values()) if case[0] == parallel)
    folder = Path("checkpoints", name)
    shutil.copytree(Path("checkpoints", f"two-{number}"), folder)
    for path in (folder / "step_0000006.pt", folder / "last.pt"):
        path.unlink()
    return Run(Path("checkpoints"), folder)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_what_two_processes_saved_while_they_went_on_one_process_takes_up(
    two: list[dict[str, Any]], parallel: str
) -> None:
    run = sharded(parallel, f"taken-{parallel}")
    assert [path.name for path in run.steps()] == ["step_0000004"]
    name = next(name for name, case in CASES.items() if case[0] == parallel)
    found = trained(job(run.name, *CASES[name][1], resume=True))
    assert found["loss"] == pytest.approx(two[0][name]["loss"][4:], abs=1e-4)
    assert found["val_loss"][-1] == pytest.approx(two[0][name]["val_loss"][-1], abs=1e-4)


def test_a_process_that_cannot_write_ends_all_with_its_reason(two: list[dict[str, Any]]) -> None:
    assert two[0]["full"] == two[1]["full"]
    assert (
        "step_0000002 could not be written: process 1: OSError: [Errno 28] No space left on device" in two[0]["full"]
    )
    assert not list(Path("checkpoints/full").glob("step_*"))


def test_a_sharded_checkpoint_that_is_not_whole_is_passed_over_and_says_what_is_missing(two: Any) -> None:
    run = sharded("ddp", "damaged")
    shutil.copytree(run.step(4), run.step(2))
    (run.step(4) / "__1_0.distcp").unlink()
    found, warnings = open_for_resume(run)
    assert found.path == run.step(2)
    assert "step_0000004 is not whole: __1_0.distcp is damaged or not there" in warnings[0]
    with pytest.raises(KiaraError, match="is a sharded checkpoint, which only the run that it is of is resumed from"):
        open_checkpoint(str(run.step(2)))


def test_an_index_that_would_run_code_is_refused_and_runs_nothing(two: Any) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return os.mkdir, ("ran",)

    run = sharded("ddp", "strange")
    (run.step(4) / ".metadata").write_bytes(pickle.dumps(Code()))
    with pytest.raises(KiaraError, match=r"holds more than an index of tensors \(posix.mkdir\) and was refused"):
        load_for_resume(run.step(4))
    assert not Path("ran").exists()


def test_processes_without_a_row_for_each_are_refused_and_uneven_shares_are_said() -> None:
    config = load_config(overrides=("train.batch_size=2", "runtime.parallel=ddp")).config
    with pytest.raises(KiaraError, match="3 processes, and an update of train.batch_size=2 × train.accu"):
        shares_in_words(config, 2, World(0, 3, 0))
    assert shares_in_words(config, 5, World(0, 3, 0)) == "3 ranks, ddp, 1 or 2 of 5 rows each: "


def test_a_killed_process_ends_the_others_and_a_new_start_goes_on_with_fewer(two: Any) -> None:
    def command(world: World) -> None:
        rate = loop.learning_rate

        def killed(step: int, *more: Any) -> float:
            if step == 6 and world.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return rate(step, *more)

        loop.learning_rate = killed  # type: ignore[assignment]
        main(["train", "--name", "killed", *SETTINGS])

    first, second = forks.start(2, command, inside=False, TORCHELASTIC_RUN_ID="seven")()
    assert (first.status, second.status) == (2, -signal.SIGKILL)
    assert first.said.splitlines()[-1].startswith("error: another process of the group has died; ")
    assert Run(Path("checkpoints"), Path("checkpoints/killed")).facts()["launch"] == "seven"
    again = forks.start(1, command, inside=False, TORCHELASTIC_RUN_ID="seven", TORCHELASTIC_RESTART_COUNT="1")
    (alone,) = again()
    assert alone.status == 0, alone.said
    facts = Run(Path("checkpoints"), Path("checkpoints/killed")).facts()
    assert (facts["status"], facts["step"], facts["resumed_with_changes"][0]["changed"]) == ("finished", 6, ["ranks"])
    assert not Path("checkpoints/killed-2").exists()
