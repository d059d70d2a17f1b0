"""Several processes that need the same data: one makes it, all end with it whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kiara_cli.config.schema import DataConfig, TokenizerConfig
from kiara_cli.core.data import claim
from kiara_cli.core.data.claim import claimed
from kiara_cli.core.data.prepare import prepare
from kiara_cli.core.data.source import Preparing

DATA, CHAR, ROOT = DataConfig(source="text.txt"), TokenizerConfig(kind="char"), Path("data")

PREPARE = """
import sys, time
from pathlib import Path
from kiara_cli.config.schema import DataConfig, TokenizerConfig
from kiara_cli.core.data import prepare as stage

def report(progress):
    if progress.stage.startswith("waiting"):
        Path("waiting").touch()
    if progress.stage == "tokenizing":  # until the other is there
        deadline = time.monotonic() + 20
        while not Path("waiting").exists() and time.monotonic() < deadline:
            time.sleep(0.01)

made = stage.prepare(DataConfig(source="text.txt"), TokenizerConfig(kind="char"), Path("data"), report=report)
print(made.folder, made.made, len(made.train) + len(made.val))
"""


def test_two_processes_that_need_the_same_new_data_both_end_with_it_whole() -> None:
    Path("text.txt").write_text("the cat sat on the mat\n" * 20)
    command = [sys.executable, "-c", PREPARE]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    assert sorted(output[1] for output in outputs) == ["False", "True"], "one has made it"
    assert Path("waiting").exists()
    assert outputs[0][2] == outputs[1][2] == "462"
    assert [path.name for path in ROOT.iterdir()] == [Path(outputs[0][0]).name]


def test_where_there_are_no_locks_each_works_in_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "fcntl", None)
    Path("text.txt").write_text("the cat sat on the mat\n" * 20)

    def meanwhile(progress: Preparing) -> None:
        if progress.stage == "tokenizing" and not list(ROOT.glob("text-*")):
            prepare(DATA, CHAR, ROOT)

    made = prepare(DATA, CHAR, ROOT, report=meanwhile)
    assert len(made.train) + len(made.val) == 462
    assert [path.name for path in ROOT.iterdir()] == [made.folder.name]


def test_a_lock_that_was_left_behind_holds_nobody_up() -> None:
    ROOT.mkdir()
    Path("data/.text.lock").touch()
    with claimed(Path("data/.text.lock")) as alone:
        assert alone
    assert list(ROOT.iterdir()) == []


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    path, real, removed = Path("data/.text.lock"), claim.fcntl.flock, []

    def flock(held: int, how: int) -> None:
        real(held, how)
        if not removed:  # as the process that held it before does when it is done
            removed.append(path.stat().st_ino)
            path.rename("gone")

    monkeypatch.setattr(claim.fcntl, "flock", flock)
    with claimed(path) as alone:
        assert alone
        assert path.stat().st_ino != removed[0], "whoever comes next looks at the path"
