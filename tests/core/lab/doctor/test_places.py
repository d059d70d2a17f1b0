"""A folder that cannot be written or has no room is found before a run is lost to it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kiara_cli.core.lab.doctor import places
from kiara_cli.core.lab.doctor.finding import Host

posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are those of POSIX")
RUNS = Path("checkpoints")


def test_a_folder_is_tried_by_writing_and_nothing_stays_behind(host: Host, named: Any) -> None:
    before = sorted(Path().rglob("*"))
    found = named(places.look_at_places(host))
    assert {finding.level for finding in found.values()} == {"ok"}
    assert "(to be made)" in found["data/"].value
    assert sorted(Path().rglob("*")) == before
    RUNS.mkdir()
    assert "(to be made)" not in places.folder_finding(RUNS, "").value


def test_a_file_in_the_place_of_a_folder_is_broken() -> None:
    RUNS.write_text("")
    found = places.folder_finding(RUNS, "")
    assert (found.level, found.remedy) == ("broken", "move it away: checkpoints must be a folder")
    assert places.folder_finding(RUNS / "deeper", "").level == "broken"


def test_a_disk_that_takes_nothing_or_has_no_room_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, level in ((10**7, "broken"), (5 * 10**8, "warning"), (10**10, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda place, free=free: SimpleNamespace(free=free))
        assert places.folder_finding(RUNS, "").level == level

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "cannot be written: No space left on device" in places.folder_finding(RUNS, "").value
    assert list(Path().iterdir()) == []


def test_runs_that_belong_to_another_user_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "mine", "z"):
        (RUNS / name).mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: "mine" in os.fspath(path))
    found = places.folder_finding(RUNS, "")
    assert found.level == "warning"
    assert found.value.endswith("not writable in it: a, z")


@posix
def test_compiled_code_that_others_may_read_or_write_is_a_warning(
    host: Host, named: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIARA_CACHE", "own")
    folder = Path("own/compiled")
    folder.mkdir(parents=True, mode=0o700)
    (folder / "x.so").write_bytes(b"x" * 2000)
    found = named(places.look_at_places(host))
    assert "2 kB" in found["cache"].value
    assert found["compiled code"].level == "ok"
    assert found["compiled code"].value.endswith("permissions 0700")
    for mode, said in ((0o755, False), (0o777, True)):
        folder.chmod(mode)
        compiled = named(places.look_at_places(host))["compiled code"]
        assert (compiled.level, "is not loaded" in compiled.meaning) == ("warning", said)
        assert "chmod 700 own/compiled" in compiled.remedy


def test_a_cache_that_cannot_be_written_is_a_warning_with_the_variable_that_moves_it(
    host: Host, named: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("blocked").write_text("")
    monkeypatch.setenv("KIARA_CACHE", "blocked")
    found = named(places.look_at_places(host))["cache"]
    assert found.level == "warning"
    assert "KIARA_CACHE" in found.remedy


@posix
def test_a_history_that_others_can_read_is_a_warning(
    host: Host, named: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "kiara").mkdir()
    (tmp_path / "kiara/history").write_text("")
    (tmp_path / "kiara/history").chmod(0o644)
    found = named(places.look_at_places(host))["history"]
    assert found.level == "warning"
    assert "others can read history" in found.value
