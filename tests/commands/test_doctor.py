"""kiara doctor: every line means something, and the exit status is the verdict."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.core.lab.doctor import machine, paths, programs
from kiara_cli.core.lab.doctor.examine import LOOKS
from kiara_cli.core.runtime import machine as peaks

Kiara = Callable[..., Any]
DOCS = Path(__file__).parents[2] / "docs/doctor.md"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "BLOCK", 1_000_000)
    monkeypatch.setattr(machine, "LISTEN", 0.01)
    monkeypatch.setattr(paths, "COMPILE", "print()")


def test_json_has_every_group_and_each_line_says_what_it_means(
    kiara: Kiara, nothing_behind: Callable[[], None]
) -> None:
    nothing_behind()
    ran = kiara("doctor", "--json")
    assert ran.status == 0, ran.err + ran.out
    found = json.loads(ran.out)
    assert found["works"] is True
    assert list(dict.fromkeys(one["group"] for one in found["findings"])) == list(LOOKS)
    names = {one["name"] for one in found["findings"]}
    assert {"Python", "torch", "processor", "memory", "precision", "C compiler", "writing in 4 bits",
            "training loops in C", "torch.compile", "data/", "cache", "settings", "locale"} <= names  # fmt: skip
    for one in found["findings"]:
        assert one["level"] in ("ok", "off", "warning")
        assert one["value"], one
        assert one["meaning"], one
        assert one["level"] != "warning" or one["remedy"], one
        assert not one["value"].startswith("it ended early"), one
    nothing_behind()


def test_a_person_sees_groups_a_verdict_and_what_to_do(kiara: Kiara, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "TORCH", "raise ImportError('libtorch is missing')")
    Path("checkpoints").write_text("a file")
    ran = kiara("doctor")
    assert ran.status == 1
    lines = ran.out.splitlines()
    assert [line for line in lines if line in LOOKS] == list(LOOKS)
    assert re.search(r"^broken +torch +ImportError: libtorch is missing", ran.out, re.MULTILINE)
    assert "→ move it away: checkpoints must be a folder" in ran.out
    assert lines[-1].startswith("Broken: torch, checkpoints/. Kiara cannot do its work until that is mended.")
    assert ran.err == ""


def test_settings_of_a_file_or_variable_are_examined_and_typed_ones_refused(
    kiara: Kiara, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "TORCH", "raise ImportError")  # only the settings are looked at here
    assert "no setting" in kiara("doctor", "checkpoints/x").mistake
    assert "runtime.threadz" in kiara("doctor", "runtime.threadz=2").mistake
    monkeypatch.setenv("KIARA__MODEL__LAYERS", "2")
    ran = kiara("doctor", "--json")
    assert ran.status == 1
    (settings,) = [one for one in json.loads(ran.out)["findings"] if one["name"] == "settings"]
    assert settings["level"] == "broken"
    assert "no key 'layers'" in settings["value"]


def test_the_page_shows_what_the_command_shows() -> None:
    page = DOCS.read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line in LOOKS] == list(LOOKS)
    for level in ("ok", "off", "warning", "broken"):
        assert f"| `{level}` |" in page
