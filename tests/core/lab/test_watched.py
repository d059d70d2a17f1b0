"""What statistics hooks recorded, read and drawn."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kiara_cli.app import main
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.lab.watched import watched
from kiara_cli.errors import KiaraError

MakeRun = Callable[..., Run]


@pytest.fixture
def run(make_run: MakeRun) -> Run:
    """A run of two layers whose gradients fall by powers of ten; one number is not finite."""
    made = make_run("seen")
    rows = [
        {"step": step, "loss": 1.0, "stat_gradient/b.0": 10.0 ** -(step // 10), "stat_gradient/a.1": 1.0,
         "stat_zero/a.1": math.nan if step == 10 else 0.25, "stat_mine": 2.0}
        for step in (10, 20, 30)
    ]  # fmt: skip
    (made.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return made


def test_statistics_are_read_by_kind_and_place_in_their_order(run: Run, make_run: MakeRun) -> None:
    gradient, zero, mine = watched(run)
    assert list(gradient.places) == ["b.0", "a.1"]
    assert gradient.places["b.0"] == [(10, 0.1), (20, 0.01), (30, 0.001)]
    assert zero.places == {"a.1": [(20, 0.25), (30, 0.25)]}
    assert (mine.title, mine.places) == ("mine", {"": [(10, 2.0), (20, 2.0), (30, 2.0)]})
    with pytest.raises(KiaraError, match="run plain recorded no statistics; train with hooks"):
        watched(make_run("plain"))


def test_they_are_shown_in_the_terminal_and_written_as_pictures(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["runs", "plot", *words])
        return (int(stop.value.code or 0), *capsys.readouterr())

    code, out, _ = call("seen", "--statistics")
    assert code == 0
    assert re.search(r"^b\.0 +▆▃▁ +0\.1 → 0\.001$", out, re.MULTILINE), out
    code, _, err = call("seen", "--statistics", "--png", "seen.png", "--html", "seen.html")
    assert (code, err) == (0, "Written: seen-gradient.png, seen-zero.png, seen-mine.png, seen.html\n")
    assert Path("seen-gradient.png").read_bytes()[:4] == b"\x89PNG"
    assert Path("seen.html").read_text().count("<svg") == 3
    assert call("seen", "seen", "--statistics")[0] == 2
