from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kiara_cli.core.checkpoint import atomic, files
from kiara_cli.core.checkpoint.find import existing, open_checkpoint, open_for_resume
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.errors import KiaraError

Put = Callable[[str], Path]


@pytest.fixture
def put(make: Callable[..., files.Checkpoint], tmp_path: Path) -> Put:
    """Return a function that saves a checkpoint at a path; each is newer than the one before."""
    count = 0

    def save(name: str) -> Path:
        nonlocal count
        count += 1
        files.save(make(resumable=not name.endswith("safetensors")), tmp_path / name)
        os.utime(tmp_path / name, (1_000_000 + count, 1_000_000 + count))
        return tmp_path / name

    return save


def opened(word: str | None, folder: Path) -> str:
    """Open a checkpoint without a warning and return its path."""
    checkpoint, warnings = open_checkpoint(word, folder)
    assert warnings == []
    return str(checkpoint.path.relative_to(folder))


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_nothing_given_means_the_best_of_the_run_started_last(put: Put, tmp_path: Path) -> None:
    put("checkpoints/best.pt")
    put("checkpoints/newer/best.pt")
    put("checkpoints/last.pt")
    assert opened(None, tmp_path) == "checkpoints/best.pt"


def test_a_name_that_begins_with_a_tilde_is_a_file_like_any_other(put: Put, tmp_path: Path) -> None:
    put("~draft.pt")
    assert opened("~draft.pt", tmp_path) == "~draft.pt"
    with pytest.raises(KiaraError, match="no checkpoint ~nobody-of-this-name"):
        open_checkpoint("~nobody-of-this-name", tmp_path)


def test_nothing_given_without_a_best_means_the_newest_runs_best(put: Put, tmp_path: Path) -> None:
    put("checkpoints/b/best.pt")
    put("checkpoints/a/best.pt")
    put("checkpoints/a/last.pt")
    assert opened(None, tmp_path) == "checkpoints/a/best.pt"


def test_a_run_without_an_evaluation_is_opened_at_its_last(put: Put, tmp_path: Path) -> None:
    put("checkpoints/a/step_0000001.pt")
    put("checkpoints/a/last.pt")
    assert opened(None, tmp_path) == "checkpoints/a/last.pt"
    assert opened("a", tmp_path) == "checkpoints/a/last.pt"


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "deep/er/x.pt"])
def test_a_file_is_itself(put: Put, tmp_path: Path, name: str) -> None:
    path = put(name)
    assert opened(name, tmp_path) == name
    assert opened(str(path), tmp_path) == name


def test_a_folder_means_its_best_then_its_last_then_its_newest_step(put: Put, tmp_path: Path) -> None:
    steps = [put(f"some/step_{step:07d}.pt") for step in (2, 10)]
    assert opened("some", tmp_path) == "some/step_0000010.pt"
    steps[1].unlink()
    assert opened("some", tmp_path) == "some/step_0000002.pt"
    put("some/last.pt")
    assert opened("some", tmp_path) == "some/last.pt"
    put("some/best.pt")
    assert opened("some/", tmp_path) == "some/best.pt"
    assert opened(str(tmp_path / "some"), tmp_path) == "some/best.pt"


@pytest.mark.parametrize("place", ["checkpoints", "models", "trained_models", "."])
@pytest.mark.parametrize("file", ["x/best.pt", "x.pt", "x.safetensors", "x_model.pt"])
def test_a_name_is_looked_up_in_four_places_and_forms(put: Put, tmp_path: Path, place: str, file: str) -> None:
    path = put(f"{place}/{file}")
    assert opened("x", tmp_path) == str(path.relative_to(tmp_path))


def test_a_runs_name_wins_over_a_file_elsewhere(put: Put, tmp_path: Path) -> None:
    put("models/x.pt")
    put("checkpoints/x/best.pt")
    assert opened("x", tmp_path) == "checkpoints/x/best.pt"


def test_a_name_with_a_dot_is_found_too(put: Put, tmp_path: Path) -> None:
    put("checkpoints/v1.2/best.pt")
    put("models/v1.3.pt")
    assert opened("v1.2", tmp_path) == "checkpoints/v1.2/best.pt"
    assert opened("v1.3", tmp_path) == "models/v1.3.pt"


def test_not_found_says_where_we_looked_and_what_there_is(put: Put, tmp_path: Path) -> None:
    with pytest.raises(KiaraError, match="no checkpoint yet .*checkpoints/best.pt.*; train one first: kiara train"):
        open_checkpoint(None, tmp_path)
    put("checkpoints/book/best.pt")
    put("models/other.safetensors")
    with pytest.raises(KiaraError) as caught:
        open_checkpoint("nook", tmp_path)
    for place in ("checkpoints/nook", "models/nook", "trained_models/nook", "nook"):
        assert str(tmp_path / place) in caught.value.cause
    assert caught.value.remedy == "there is: checkpoints/book/best.pt, models/other.safetensors"
    assert "\n" not in str(caught.value)


def test_a_folder_without_checkpoints_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "empty").mkdir(parents=True)
    with pytest.raises(KiaraError, match="no checkpoint empty"):
        open_checkpoint("empty", tmp_path)


def test_existing_lists_what_a_person_may_name(put: Put, tmp_path: Path) -> None:
    paths = [put(name) for name in ("checkpoints/a/best.pt", "checkpoints/best.pt", "models/m.pt", "here.pt")]
    put("checkpoints/a/step_0000001.pt")
    assert set(existing(tmp_path)) == set(paths)


@pytest.mark.parametrize("name", ["checkpoints/a/best.pt", "elsewhere/x.safetensors", "elsewhere/nosuffix"])
def test_a_damaged_file_that_was_named_is_an_error_with_the_last_good_one(
    put: Put, tmp_path: Path, name: str
) -> None:
    good = put("checkpoints/a/last.pt")
    path = put(name)
    damage(path)
    with pytest.raises(KiaraError) as caught:
        open_checkpoint(name, tmp_path)
    assert str(path) in caught.value.cause
    assert caught.value.remedy == f"the last good one is {good}"


def test_a_damaged_file_with_no_other_says_so(put: Put, tmp_path: Path) -> None:
    damage(put("x.pt"))
    with pytest.raises(KiaraError, match="x.pt is damaged.*; there is no other one"):
        open_checkpoint("x.pt", tmp_path)


@pytest.mark.parametrize("word", [None, "a"])
def test_a_damaged_file_that_was_only_found_is_passed_over_with_a_warning(
    put: Put, tmp_path: Path, word: str | None
) -> None:
    put("checkpoints/a/last.pt")
    damage(put("checkpoints/a/best.pt"))
    checkpoint, warnings = open_checkpoint(word, tmp_path)
    assert checkpoint.path == tmp_path / "checkpoints/a/last.pt"
    assert len(warnings) == 1
    assert "checkpoints/a/best.pt is damaged" in warnings[0]


def test_nothing_but_damaged_files_is_one_error(put: Put, tmp_path: Path) -> None:
    damage(put("checkpoints/a/last.pt"))
    damage(put("checkpoints/a/best.pt"))
    with pytest.raises(KiaraError, match=r"best\.pt is damaged .*last\.pt is damaged"):
        open_checkpoint("a", tmp_path)


def test_resuming_takes_the_newest_and_passes_over_damaged_ones(put: Put, tmp_path: Path) -> None:
    run = Run(tmp_path / "checkpoints", tmp_path / "checkpoints" / "a")
    put("checkpoints/a/best.pt")
    for step in (1, 2, 3):
        path = put(f"checkpoints/a/step_000000{step}.pt")
    atomic.link(path, run.last)
    checkpoint, warnings = open_for_resume(run)
    assert checkpoint.path == path
    assert checkpoint.optimizer is not None
    assert warnings == []
    damage(path)  # and with it last.pt, which is the same file
    checkpoint, warnings = open_for_resume(run)
    assert checkpoint.path.name == "step_0000002.pt"
    assert len(warnings) == 1
    assert "step_0000003.pt is damaged" in warnings[0]
    for step in run.steps():
        damage(step)
    with pytest.raises(KiaraError, match="no whole checkpoint to resume from"):
        open_for_resume(run)


def test_resuming_takes_a_step_that_is_newer_than_last(put: Put, tmp_path: Path) -> None:
    """The process was killed after it wrote the one and before it renewed the other."""
    run = Run(tmp_path / "checkpoints", tmp_path / "checkpoints" / "a")
    atomic.link(put("checkpoints/a/step_0000001.pt"), run.last)
    newest = put("checkpoints/a/step_0000002.pt")
    assert open_for_resume(run)[0].path == newest
    newest.unlink()
    (run.folder / "step_0000001.pt").unlink()
    assert open_for_resume(run)[0].path == run.last


def test_resuming_takes_last_where_only_the_step_beside_it_is_damaged(put: Put, tmp_path: Path) -> None:
    run = Run(tmp_path / "checkpoints", tmp_path / "checkpoints" / "a")
    put("checkpoints/a/step_0000001.pt")
    newest = put("checkpoints/a/step_0000002.pt")
    put("checkpoints/a/last.pt")  # a copy, where there are no hard links
    damage(newest)
    assert open_for_resume(run)[0].path == run.last
