from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kiara_cli.config.load import load_config
from kiara_cli.config.schema import Config, TrainConfig
from kiara_cli.core.checkpoint import files
from kiara_cli.core.checkpoint import run as run_module
from kiara_cli.core.checkpoint.run import Run, config_hash, git_commit
from kiara_cli.errors import KiaraError

Make = Callable[..., files.Checkpoint]


def create_many(root: Path, count: int) -> list[str]:
    return [Run.create(root, "book").name for _ in range(count)]


def test_a_taken_name_is_numbered_from_two(tmp_path: Path) -> None:
    assert create_many(tmp_path / "checkpoints", 4) == ["book", "book-2", "book-3", "book-4"]


def test_a_gap_is_filled_and_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "precious").write_text("keep")
    (tmp_path / "book-2").write_text("a file, not a folder")
    (tmp_path / "book-4").mkdir()
    assert create_many(tmp_path, 2) == ["book-3", "book-5"]
    assert (tmp_path / "book" / "precious").read_text() == "keep"


@pytest.mark.slow
def test_processes_that_create_at_once_get_different_folders(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from kiara_cli.core.checkpoint.run import Run; "
        "[print(Run.create(pathlib.Path(sys.argv[1]), 'book').name) for _ in range(40)]"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "runs")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    names = [name for process in processes for name in process.communicate(timeout=600)[0].split()]
    assert len(set(names)) == len(names) == 80
    assert {path.name for path in (tmp_path / "runs").iterdir()} == set(names)


@pytest.mark.parametrize("name", ["", ".", "..", "../out", "a/b", "/tmp/x", "-x", "a b", "a\n"])
def test_a_name_that_is_no_plain_word_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KiaraError, match="cannot name a run"):
        Run.create(tmp_path / "checkpoints", name)
    assert not list(tmp_path.iterdir())


def test_a_root_that_is_a_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(OSError, match="exists"):
        Run.create(tmp_path / "checkpoints", "book")


def test_a_run_that_is_claimed_cannot_be_claimed_again_until_it_is_released(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "book")
    lock = run.lock()
    with pytest.raises(KiaraError, match="book is being trained by another process; wait for it"):
        run.lock()
    assert Run.create(tmp_path, "book").name == "book-2"
    lock.release()
    lock.release()
    run.lock().release()


def test_a_claim_ends_with_the_process_however_it_ends_and_a_killed_run_is_not_running_for_ever(
    tmp_path: Path,
) -> None:
    run = Run.create(tmp_path, "book")
    run.describe(Config(), {"status": "running"})
    program = (
        "import sys, time, pathlib; from kiara_cli.core.checkpoint.run import Run; "
        "lock = Run(pathlib.Path(), pathlib.Path(sys.argv[1])).lock(); print('claimed', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(run.folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "claimed\n"
    with pytest.raises(KiaraError, match="is being trained by another process"):
        run.lock()
    Run.create(tmp_path, "other")
    assert run.status == run.facts()["status"] == "running"
    process.kill()
    process.communicate()
    assert (run.status, run.facts()["status"]) == ("killed", "running")
    Run.create(tmp_path, "other")
    assert (run.status, run.facts()["status"]) == ("killed", "killed")
    run.lock().release()


@pytest.mark.parametrize(("pid", "host", "status"), [("ours", "here", "running"), ("dead", "here", "killed"),
    ("dead", "elsewhere", "running"), (None, "here", "killed")])  # fmt: skip
def test_without_locks_the_number_of_the_process_tells_whether_a_run_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: str | None, host: str, status: str
) -> None:
    monkeypatch.setattr(run_module, "fcntl", None)
    dead = subprocess.Popen(["true"])
    dead.wait()
    run = Run.create(tmp_path, "book")
    number = {"ours": os.getpid(), "dead": dead.pid, None: None}[pid]
    run.set_status("running", pid=number, host=platform.node() if host == "here" else host)
    assert run.status == status


@pytest.mark.parametrize(("leaves", "status"), [(ValueError("why"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_a_run_that_an_exception_ends_says_so_unless_it_had_said_how_it_ended(
    tmp_path: Path, leaves: BaseException, status: str
) -> None:
    for before, after in (("running", status), ("diverged", "diverged")):
        run = Run.create(tmp_path, "book")
        run.set_status(before)
        with pytest.raises(type(leaves)), run.noting_the_end():
            raise leaves
        assert run.facts()["status"] == after
        assert run.facts().get("reason") == ("ValueError: why" if after == "failed" else None)


def test_claiming_a_run_clears_away_what_a_killed_process_left(make: Make, tmp_path: Path) -> None:
    run = Run.create(tmp_path, "book")
    run.save_step(make(), 1, keep=2, safetensors=False)
    (run.folder / ".step_0000002.pt.123.partial.pt").write_bytes(b"half")
    run.lock().release()
    assert {path.name for path in run.folder.iterdir()} == {"step_0000001.pt", "last.pt"}


def test_records_beyond_a_step_and_a_torn_line_are_cut(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "book")
    run.cut_records(3)  # nothing there yet
    for step in range(1, 7):
        run.record({"step": step, "loss": 1.0 / step})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    run.cut_records(3)
    run.record({"step": 4, "loss": 0.1})
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": 1.0 / 3},
        {"step": 4, "loss": 0.1},
    ]


def test_cutting_records_survives_lines_that_are_no_records(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "book")
    (run.folder / "metrics.jsonl").write_text('\n3\nnull\n{"other": 1}\n{"step": 1}\n\x00\x00\n')
    run.cut_records(1)
    assert (run.folder / "metrics.jsonl").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("safetensors", [False, True])
def test_only_the_newest_checkpoints_are_kept_and_last_is_the_newest(
    make: Make, tmp_path: Path, keep: int, safetensors: bool
) -> None:
    run = Run.create(tmp_path, "book")
    for step in (1, 2, 10, 9_999_999):
        run.save_step(make(seed=step), step, keep, safetensors)
    kept = [f"step_{step:07d}" for step in (1, 2, 10, 9_999_999)][-keep:]
    suffixes = [".pt", ".safetensors"] if safetensors else [".pt"]
    assert [path.stem for path in run.steps()] == kept
    expected = {"last.pt", *(name + suffix for name in kept for suffix in suffixes)}
    assert {path.name for path in run.folder.iterdir()} == expected
    assert run.last.read_bytes() == run.steps()[-1].read_bytes()


def test_publishing_makes_the_roots_best_and_last_those_of_the_run(make: Make, tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        run = Run.create(tmp_path, name)
        run.save_best(make(seed=seed), safetensors=True)
        run.publish()
        assert (tmp_path / "best.pt").read_bytes() == run.best.read_bytes()
        run.save_step(make(seed=10 + seed), 5, keep=2, safetensors=False)
        run.publish()
        assert (tmp_path / "last.pt").read_bytes() == run.last.read_bytes()
        assert (tmp_path / "best.pt").read_bytes() == run.best.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "best.pt", "last.pt"}
    best = files.load(run.best), files.load(run.best.with_suffix(".safetensors"))
    assert all(torch.equal(best[0].model[name], best[1].model[name]) for name in best[0].model)


def test_run_json_says_where_the_run_came_from(tmp_path: Path) -> None:
    run, config = Run.create(tmp_path, "book"), Config()
    run.describe(config, {"status": "running", "seed": 1337, "data_hash": "d", "tokenizer_hash": "t"})
    facts = json.loads((run.folder / "run.json").read_text())
    assert facts["run"] == "book"
    assert facts["config_hash"] == config_hash(config)
    assert facts["versions"]["torch"] == torch.__version__
    assert {"python", "numpy", "kiara-slm"} <= facts["versions"].keys()
    assert facts["machine"]
    assert "git_commit" in facts
    assert facts["created"].endswith("+00:00")
    assert (facts["seed"], facts["data_hash"], facts["tokenizer_hash"]) == (1337, "d", "t")
    run.set_status("finished", step=3)
    assert run.facts() == facts | {"status": "finished", "step": 3, "updated": run.facts()["updated"]}


def test_config_yaml_holds_the_whole_config_and_its_hash(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "book")
    config = dataclasses.replace(Config(), train=TrainConfig(max_steps=7, lr=1e-5))
    run.describe(config, {})
    text = (run.folder / "config.yaml").read_text()
    assert text.startswith(f"# hash: {config_hash(config)}\n")
    assert load_config([str(run.folder / "config.yaml")]).config == config


def test_describing_again_keeps_what_was_known_and_renews_the_configs_hash(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "book")
    run.describe(Config(), {"status": "running", "seed": 5})
    created = run.facts()["created"]
    longer = dataclasses.replace(Config(), train=TrainConfig(max_steps=7))
    run.describe(longer, {"status": "running"})
    assert run.facts()["created"] == created
    assert run.facts()["seed"] == 5
    assert run.facts()["config_hash"] == config_hash(longer)


@pytest.mark.parametrize("text", ["", "not json", "[1, 2]", '{"status": "runn'])
def test_a_damaged_run_json_counts_as_empty_and_is_written_anew(tmp_path: Path, text: str) -> None:
    run = Run.create(tmp_path, "book")
    (run.folder / "run.json").write_text(text)
    assert run.facts() == {}
    run.set_status("finished")
    assert run.facts()["status"] == "finished"


def test_the_git_commit_is_none_outside_git_and_marked_when_files_have_changed(tmp_path: Path) -> None:
    assert git_commit() is None
    identity = ["-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    (tmp_path / "file").write_text("one")
    for command in (["init", "-q"], ["add", "file"], [*identity, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", *command], check=True)
    commit = git_commit()
    assert commit is not None
    assert len(commit) == 40
    (tmp_path / "file").write_text("two")
    assert git_commit() == f"{commit}+"


def test_a_run_is_found_by_name_or_as_the_one_that_saved_last(make: Make, tmp_path: Path) -> None:
    with pytest.raises(KiaraError, match="no run in .* to resume; .*none yet"):
        Run.find(tmp_path, None)
    for age, name in enumerate(("new", "old")):
        run = Run.create(tmp_path, name)
        run.set_status("running")
        run.save_step(make(), 1, keep=1, safetensors=False)
        os.utime(run.last, (1_000_000 - age, 1_000_000 - age))
    assert Run.find(tmp_path, None).name == "new"
    assert Run.find(tmp_path, "old").name == "old"
    with pytest.raises(KiaraError, match="no run other .*; runs that can be resumed: old, new"):
        Run.find(tmp_path, "other")


def test_writing_a_text_leaves_no_other_file(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "book")
    run.write_text("a.txt", "one")
    run.write_text("a.txt", "two")
    assert [(path.name, path.read_text()) for path in run.folder.iterdir()] == [("a.txt", "two")]
