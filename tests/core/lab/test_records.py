from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.core.checkpoint import history
from kiara_cli.core.checkpoint.run import Lock, Run
from kiara_cli.core.lab import records
from kiara_cli.core.lab.records import INDEX, chosen, disk_use, find_run, ordered, read_record, read_records
from kiara_cli.errors import KiaraError

MakeRun = Callable[..., Run]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect which run.json and metrics.jsonl are read."""
    names: list[str] = []
    facts, read = Run.facts, history.read_history

    def noting_facts(self: Run) -> dict[str, Any]:
        names.append(f"{self.name}/run.json")
        return facts(self)

    monkeypatch.setattr(Run, "facts", noting_facts)
    monkeypatch.setattr("kiara_cli.core.checkpoint.run.read_history", lambda path: names.append(path) or read(path))
    return names


def test_a_record_says_what_was_trained_what_came_of_it_and_what_it_cost(make_run: MakeRun, root: Path) -> None:
    run = make_run("book", loss=1.5, seed=7, baseline={"run": "older"})
    (run.folder / "step_0000020.pt").write_bytes(b"x" * 1000)
    os.link(run.folder / "step_0000020.pt", run.folder / "last.pt")
    (record,) = read_records(root)
    assert (record.name, record.status, record.data, record.seed) == ("book", "finished", "book", 7)
    assert (record.step, record.steps, record.tokens, record.parameters) == (20, 20, 200, 1000)
    assert (record.val_loss, record.bits_per_byte) == (1.5, 0.75)
    assert (record.seconds, record.flops, record.memory, record.baseline) == (4.0, 1.2e6, 5_000_000, "older")
    assert record.bytes == 1000 + sum((run.folder / name).stat().st_size
                                      for name in ("run.json", "config.yaml", "metrics.jsonl"))  # fmt: skip
    assert record.ended


def test_the_second_listing_opens_no_run_and_a_third_only_what_has_changed(
    make_run: MakeRun, root: Path, opened: list[str]
) -> None:
    runs = [make_run(f"run-{n}", seed=n) for n in range(5)]
    first = read_records(root)
    assert {f"run-{n}/run.json" for n in range(5)} <= set(opened)
    opened.clear()
    assert read_records(root) == first
    assert opened == []
    runs[2].set_status("diverged")
    (runs[3].folder / "best.pt").write_bytes(b"weights")
    opened.clear()
    again = read_records(root)
    assert {str(name).split("/")[0] for name in opened} == {"run-2", "run-3"}
    assert [record.status for record in again] == ["finished", "finished", "diverged", "finished", "finished"]
    assert again[3].bytes == first[3].bytes + 7
    for path in runs[4].folder.iterdir():
        path.unlink()
    runs[4].folder.rmdir()
    assert [record.name for record in read_records(root)] == ["run-0", "run-1", "run-2", "run-3"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 0}', "\x00",
    '{"format": 1, "fields": FIELDS, "runs": {"a": [[1, 2], []]}}',
    '{"format": 1, "fields": FIELDS, "runs": {"a": 3}}', '{"format": 1, "fields": FIELDS, "runs": [1]}',
    '{"format": 1, "fields": ["other"], "runs": {}}'])  # fmt: skip
def test_a_damaged_index_is_made_anew(make_run: MakeRun, root: Path, content: str, opened: list[str]) -> None:
    make_run("a")
    first = read_records(root)
    (root / INDEX).write_text(content.replace("FIELDS", json.dumps(list(records.FIELDS))))
    assert read_records(root) == first
    opened.clear()
    assert read_records(root) == first
    assert opened == []


def test_an_index_that_cannot_be_written_is_done_without(
    make_run: MakeRun, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run("a")

    def refuse(path: Path) -> None:
        raise PermissionError(13, "read-only", str(path))

    monkeypatch.setattr(records, "replacing", refuse)
    assert [record.name for record in read_records(root)] == ["a"]
    assert not (root / INDEX).exists()


def test_a_run_is_running_while_a_process_holds_it_and_killed_when_none_does(
    make_run: MakeRun, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("a", status="running", best=None, val_loss=None, step=None, tokens=None, seconds=None)
    make_run("b")
    lock = Lock(run.folder)
    record = read_records(root)[0]
    assert (record.status, record.step, record.tokens, record.val_loss) == ("running", 20, 200, 1.0)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 25, "loss": 0.5, "tokens": 250, "seconds": 5.0}\n')
    assert read_records(root)[0].step == 25  # what runs is read each time
    lock.release()
    probed: list[str] = []
    real = Run.abandoned
    monkeypatch.setattr(Run, "abandoned", lambda self: probed.append(self.name) or real(self))
    record = read_records(root)[0]
    assert (record.status, record.seconds, record.bits_per_byte, record.ended) == ("killed", 5.0, 0.5, False)
    assert (run.facts()["status"], probed) == ("killed", ["a"])
    read_records(root)
    read_records(root)
    assert len(probed) <= 2  # its run.json says so now


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00\x01", '{"status": 3, "created": [], "parameters": "many", '
    '"best": 7, "val_loss": "low", "seed": true, "steps": null, "flops_per_token": {}}'])  # fmt: skip
def test_what_is_no_run_json_of_ours_is_listed_and_never_a_traceback(
    make_run: MakeRun, root: Path, content: str
) -> None:
    run = make_run("a")
    (run.folder / "run.json").write_text(content)
    (run.folder / "config.yaml").write_text("not: [a config")
    for _ in range(2):
        (record,) = read_records(root)
        assert record.status in (records.DAMAGED, records.UNKNOWN)
        assert record.parameters is None
        assert not record.ended
        assert record.bytes > 0


def test_what_lies_among_the_runs_and_is_none_is_left_out(make_run: MakeRun, root: Path) -> None:
    make_run("a")
    (root / "best.pt").write_bytes(b"")
    (root / "empty").mkdir()
    (root / ".hidden").mkdir()
    (root / ".hidden" / "run.json").write_text("{}")
    (root / "nowhere").symlink_to("not-there")
    assert [record.name for record in read_records(root)] == ["a"]
    assert read_records(root / "none") == []
    with pytest.raises(KiaraError, match=r"best\.pt is a file, not the folder of runs"):
        read_records(root / "best.pt")


def test_a_run_of_an_older_version_lists_with_what_its_records_say(make_run: MakeRun, root: Path) -> None:
    run = make_run("a", seed=3)
    old = {"run": "a", "created": "2026-10-01T12:00:00+00:00", "status": "finished", "seed": 3, "step": 20,
           "val_loss": 1.0, "tokens": 200, "parameters": 1000, "data_folder": "data/my-book-12345678",
           "data_hash": "data", "tokenizer_hash": "tokenizer", "threads": 2}  # fmt: skip
    (run.folder / "run.json").write_text(json.dumps(old))
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if "seconds" in line:
            del line["seconds"]
            line["tokens_per_second"] = 50.0
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = read_record(run)
    assert (record.data, record.seed, record.step, record.bits_per_byte) == ("my-book", 3, 20, 0.5)
    assert record.seconds == pytest.approx(4.0)
    assert record.results_hash is None
    other = make_run("b", seed=4)
    (other.folder / "run.json").write_text(json.dumps(old | {"seed": 4}))
    assert record.group == read_record(other).group is not None


def test_runs_are_chosen_and_sorted_and_those_without_a_value_come_last(make_run: MakeRun, root: Path) -> None:
    for name, loss in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        make_run(name, loss=loss)
    make_run("d", best=None, val_loss=None, status="failed", data="other").folder.joinpath("metrics.jsonl").unlink()
    found = read_records(root)
    assert [record.name for record in ordered(found, "val_loss")] == ["a", "b", "c", "d"]
    assert [record.name for record in ordered(found, "val_loss", reverse=True)] == ["c", "b", "a", "d"]
    assert [record.name for record in chosen(found, ["[ab]", "c*"], "finished", "book")] == ["a", "b", "c"]
    assert [record.name for record in chosen(found, [], None, "other")] == ["d"]
    assert [record.name for record in chosen(found, [], "failed", None)] == ["d"]


def test_a_run_is_found_by_name_or_folder_and_near_names_are_offered(make_run: MakeRun, root: Path) -> None:
    run = make_run("tales-2")
    assert find_run("tales-2", root).folder == run.folder
    assert find_run(str(run.folder), Path("elsewhere")).name == "tales-2"
    for word in ("tales", "..", ".", "", "../checkpoints/none"):
        with pytest.raises(KiaraError, match=r"no run .*; (did you mean tales-2\?|there is: tales-2)"):
            find_run(word, root)
    with pytest.raises(KiaraError, match="train one first"):
        find_run("tales", root / "none")


def test_listing_needs_no_torch() -> None:
    program = (
        "import sys; import kiara_cli.core.lab.groups, kiara_cli.core.lab.removal; sys.exit('torch' in sys.modules)"
    )
    here = Path(records.__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", program], cwd=here, check=False).returncode == 0


def test_a_file_of_two_names_takes_its_place_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "d").write_bytes(b"123")
    assert disk_use(tmp_path) == 8
