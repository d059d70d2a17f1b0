from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kiara_cli.core.checkpoint.run import Lock, Run
from kiara_cli.core.lab.records import read_records
from kiara_cli.core.lab.removal import plan_removal, remove_run
from kiara_cli.errors import KiaraError

MakeRun = Callable[..., Run]


def with_weights(run: Run) -> Run:
    run.best.write_bytes(b"b" * 100)
    (run.folder / "step_0000020.pt").write_bytes(b"s" * 1000)
    os.link(run.folder / "step_0000020.pt", run.last)
    run.publish()
    return run


def test_what_would_go_is_counted_once_and_what_stays_is_named(make_run: MakeRun, root: Path) -> None:
    run = with_weights(make_run("a"))
    plan = plan_removal(run, checkpoints_only=True)
    assert (plan.files, plan.bytes) == (3, 1100)
    assert plan.kept == (root / "best.pt", root / "last.pt")
    assert plan_removal(run).files == 6
    shutil.copyfile(root / "best.pt", root / "copy")
    (root / "copy").replace(root / "best.pt")  # as on a file system without hard links
    assert plan_removal(run).kept == (root / "best.pt", root / "last.pt")
    (root / "best.pt").write_bytes(b"of another run")
    assert plan_removal(run).kept == (root / "last.pt",)


def test_the_checkpoints_alone_go_and_the_records_stay(make_run: MakeRun, root: Path) -> None:
    run = with_weights(make_run("a"))
    before = read_records(root)[0]
    remove_run(run, checkpoints_only=True)
    assert {path.name for path in run.folder.iterdir()} == {"run.json", "config.yaml", "metrics.jsonl"}
    after = read_records(root)[0]
    assert (after.val_loss, after.bytes) == (before.val_loss, before.bytes - 1100)


def test_a_removed_run_is_gone_and_the_published_weights_stay(make_run: MakeRun, root: Path) -> None:
    run, other = with_weights(make_run("a")), make_run("b")
    remove_run(run)
    assert {path.name for path in root.iterdir() if not path.name.startswith(".")} == {"b", "best.pt", "last.pt"}
    assert (root / "best.pt").read_bytes() == b"b" * 100
    assert [record.name for record in read_records(root)] == ["b"]
    (root / "link").symlink_to(other.folder.name)
    remove_run(Run(root, root / "link"))
    assert (other.folder / "run.json").is_file()


@pytest.mark.parametrize("status", ["running", "finished"])
def test_a_run_that_a_process_holds_is_not_removed(make_run: MakeRun, status: str) -> None:
    run = with_weights(make_run("a", status=status))
    lock = Lock(run.folder)
    with pytest.raises(KiaraError, match="run a is being trained; stop that process first; nothing was removed"):
        remove_run(run)
    assert run.best.is_file()
    lock.release()
    remove_run(run)
    assert not run.folder.exists()
