"""Each thing that can befall a training, provoked: what it prints, how it exits, what is on the disk afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kiara_cli.core.checkpoint import atomic, files
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.model.feedforward import SwiGLU

Kiara = Callable[..., Any]
Check = Callable[[], None]


def all_whole(folder: Path = Path("checkpoints")) -> None:
    """Fail if a checkpoint does not load, or if anything half-written is left."""
    for path in folder.rglob("*.pt"):
        files.load(path)
    assert not list(folder.rglob(".*"))


def poisoned(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Plant a NaN in gradients by a tensor hook, after so many passes through a feed-forward in training."""
    passes = 0
    forward = SwiGLU.forward

    def spoiled(self: SwiGLU, x: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        out = forward(self, x)
        if self.training and torch.is_grad_enabled():
            passes += 1
            if passes > after:
                out.register_hook(lambda gradient: gradient * float("nan"))
        return out

    monkeypatch.setattr(SwiGLU, "forward", spoiled)


def test_a_run_that_diverges_exits_1_and_names_step_batch_parameter_and_the_last_good_checkpoint(
    kiara: Kiara, text: Path, tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, after=2 * 3)  # two layers, three good steps
    ran = kiara("train", str(text), *tiny_settings, "train.max_steps=9", "train.skip_batches=2", "--json")
    assert ran.status == 1
    assert "warning: step 4/9  batch 3 skipped: loss" in ran.err
    culprit = "blocks.1.feedforward.down.weight"
    assert f"warning: diverged at step 4, batch 5: the gradient is not finite ({culprit})" in ran.err
    assert "The last good checkpoint is checkpoints/text/last.pt: start again with a lower rate." in ran.err
    *records, result = map(json.loads, ran.out.splitlines())
    assert [record["skipped_batch"] for record in records if "skipped_batch" in record] == [3, 4, 5]
    assert (result["status"], result["step"], result["last"]) == ("diverged", 3, "checkpoints/text/last.pt")
    assert json.loads(Path("checkpoints/text/run.json").read_text())["status"] == "diverged"
    assert files.load(Path("checkpoints/text/last.pt")).metrics["step"] == 2
    all_whole()


def test_a_run_that_diverges_before_its_first_checkpoint_leaves_the_roots_best_alone(
    kiara: Kiara, trained: Path, tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Path("checkpoints/best.pt").read_bytes()
    poisoned(monkeypatch, after=0)
    ran = kiara("train", "text.txt", *tiny_settings, "train.skip_batches=0")
    assert ran.status == 1
    assert "There is no checkpoint yet: start again with a lower rate." in ran.err
    assert Path("checkpoints/best.pt").read_bytes() == before


def test_a_full_disk_is_one_line_and_the_checkpoints_before_it_stay_whole(kiara: Kiara, trained: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))  # Python ignores SIGXFSZ: writing fails
    try:
        ran = kiara("train", "--resume", "train.max_steps=8")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ran.status == 2
    line = ran.err.splitlines()[-1]
    assert line.startswith("error: cannot write or read: checkpoints/text/best.pt could not be written whole; ")
    assert line.endswith("check space and permissions")
    assert "Traceback" not in ran.err
    all_whole()
    ran = kiara("train", "--resume", "train.max_steps=8", "--json")
    assert ran.status == 0
    assert json.loads(ran.out.splitlines()[-1])["step"] == 8


@pytest.mark.parametrize("damage", ["truncated", "bit flipped"])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_it_used(
    kiara: Kiara, trained: Path, damage: str
) -> None:
    newest = Path("checkpoints/text/step_0000004.pt")
    atomic.link(newest, Path("checkpoints/text/last.pt"))  # one file, as kiara made it; the fixture copied it
    whole = newest.read_bytes()
    place = whole.index(files.load(newest).model["blocks.0.attention.qkv.weight"].numpy().tobytes())
    flipped = whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :]
    newest.write_bytes(whole[:5000] if damage == "truncated" else flipped)
    ran = kiara("train", "--resume")
    assert ran.status == 0
    assert f"warning: {newest} is damaged or not a checkpoint; trying the one before it" in ran.err
    assert "Resuming text at step 2 of 4" in ran.err
    all_whole()


def test_a_damaged_best_is_passed_over_where_no_checkpoint_is_named(kiara: Kiara, trained: Path) -> None:
    for best in (Path("checkpoints/best.pt"), Path("checkpoints/text/best.pt")):
        best.write_bytes(best.read_bytes()[:5000])
    ran = kiara("generate", "-p", "the", "--max-new-tokens", "3")
    assert ran.status == 0
    assert "warning: checkpoints/best.pt is damaged" in ran.err
    assert "the last good one is" in kiara("eval", "checkpoints/best.pt").mistake


def test_a_run_that_is_being_trained_is_not_resumed_a_second_time(
    kiara: Kiara, trained: Path, nothing_behind: Check
) -> None:
    lock = Run.find(Path("checkpoints"), "text").lock()
    nothing_behind()
    line = kiara("train", "--resume").mistake
    assert line == (
        "error: checkpoints/text is being trained by another process; "
        "wait for it, or start a new run without --resume"
    )
    nothing_behind()
    lock.release()


def command(*words: str) -> list[str]:
    machine = ("runtime.device=cpu", "runtime.dtype=fp32", "runtime.threads=1")
    return [sys.executable, "-m", "kiara_cli.app", "train", *words, *machine]


def launched(*words: str, until: str) -> subprocess.Popen[str]:
    """Start training in another process and wait until a file of its run is there."""
    process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    awaited = Path("checkpoints/text", until)
    while not (awaited.is_file() and awaited.stat().st_size > 0):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    return process


@pytest.mark.slow
def test_two_runs_started_at_once_get_a_folder_each(text: Path, tiny_settings: tuple[str, ...]) -> None:
    both = [subprocess.Popen(command(str(text), *tiny_settings), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
    for name in ("text", "text-2"):
        facts = json.loads(Path("checkpoints", name, "run.json").read_text())
        assert (facts["run"], facts["status"], facts["step"]) == (name, "finished", 4)
        records = Path("checkpoints", name, "metrics.jsonl").read_text().splitlines()
        assert [json.loads(record)["step"] for record in records] == [1, 2, 2, 3, 4, 4]
    all_whole()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_and_resume_finishes(
    kiara: Kiara, text: Path, tiny_settings: tuple[str, ...], number: signal.Signals, status: int
) -> None:
    seldom = ("train.max_steps=400", "train.eval_interval=400", "train.checkpoint_interval=400")
    process = launched(str(text), *tiny_settings, *seldom, "model.drop_rate=0.1", until="metrics.jsonl")
    process.send_signal(number)
    out, err = process.communicate(timeout=600)
    assert process.returncode == status
    assert out == ""
    assert "Traceback" not in err
    assert "kiara train --resume --name text" in err
    facts = json.loads(Path("checkpoints/text/run.json").read_text())
    assert facts["status"] == "interrupted"
    reached = facts["step"]
    assert 0 < reached < 400
    assert files.load(Path("checkpoints/text/last.pt")).metrics["step"] == reached
    ran = kiara("train", "--resume", "--json")
    assert ran.status == 0
    result = json.loads(ran.out.splitlines()[-1])
    assert (result["status"], result["step"]) == ("finished", 400)


@pytest.mark.slow
def test_a_terminal_that_goes_away_saves_and_ends_like_a_signal(text: Path, tiny_settings: tuple[str, ...]) -> None:
    seldom = ("train.max_steps=100000", "train.eval_interval=100000", "train.checkpoint_interval=100000")
    own = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    leader, follower = pty.openpty()
    os.set_blocking(leader, False)
    process = subprocess.Popen(
        [sys.executable, "-c", own, *command(str(text), *tiny_settings, *seldom)],
        stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    shown = b""
    while not Path("checkpoints/text/metrics.jsonl").is_file() or b"\x1b[?25l" not in shown:
        assert process.poll() is None, shown
        with contextlib.suppress(OSError):  # nothing new
            shown += os.read(leader, 65_536)
        time.sleep(0.01)
    os.close(leader)
    assert process.wait(timeout=600) == 129
    facts = json.loads(Path("checkpoints/text/run.json").read_text())
    assert facts["status"] == "interrupted"
    assert files.load(Path("checkpoints/text/last.pt")).metrics["step"] == facts["step"] > 0


@pytest.mark.slow
def test_a_second_signal_leaves_at_once_with_the_last_good_file_whole(
    text: Path, tiny_settings: tuple[str, ...]
) -> None:
    long_steps = ("train.accumulation=2000", "train.checkpoint_interval=1", "train.eval_interval=1000")
    process = launched(str(text), *tiny_settings, *long_steps, "train.max_steps=1000", until="last.pt")
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None  # it finishes its step
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "Stopped and saved" not in err
    assert json.loads(Path("checkpoints/text/run.json").read_text())["status"] == "running"
    assert files.load(Path("checkpoints/text/last.pt")).metrics["step"] == 1
    all_whole()


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_says_so(
    kiara: Kiara, text: Path, tiny_settings: tuple[str, ...]
) -> None:
    seldom = ("train.max_steps=100000", "train.eval_interval=100000", "train.checkpoint_interval=100000")
    process = launched(str(text), *tiny_settings, *seldom, until="metrics.jsonl")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL
    assert json.loads(Path("checkpoints/text/run.json").read_text())["status"] == "running"
    assert "no whole checkpoint to resume from" in kiara("train", "--resume", "--name", "text").mistake
    assert json.loads(Path("checkpoints/text/run.json").read_text())["status"] == "killed"
