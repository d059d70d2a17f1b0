"""What a person sees while training."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from kiara_cli.console.output import amount, duration
from kiara_cli.console.training import TrainingView, fold, plain_lines
from kiara_cli.core.eval.metrics import Metrics
from kiara_cli.core.train.events import Evaluated, Event, Sampled, Saved, Skipped, Spiked, Started, Stepped
from kiara_cli.core.train.meter import Reading

READING = Reading(9_876.0, 123e9, 0.41, {"data": 0.001, "forward": 0.03, "backward": 0.06, "optimizer": 0.009})
STARTED = Started("tales", Path("checkpoints/tales"), 0, 800)
STEP = Stepped(10, 2.5, 1e-3, 0.7, 40_960, 95.0, READING, 512_000_000)
SKIPPED = Skipped(11, 10, float("nan"), float("nan"), "blocks.1.attention.qkv.weight", 1)


def events() -> Iterator[Event]:
    for index in range(40):
        yield dataclasses.replace(STEP, step=10 * (index + 1), loss=2.5 - index / 20)
        if index % 8 == 7:
            yield Evaluated(10 * (index + 1), Metrics(270.0 - 5 * index, 30, 100, 300), True, 1.0)
            yield Saved(10 * (index + 1), Path("best.pt"), 0.1)
    yield Sampled(400, "Hi", "[bold]Once[/] there was\ta fox. " * 12)


def screen(view: TrainingView, width: int, height: int) -> list[str]:
    """Return the lines of the panel on a terminal of this size."""
    view.console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    paper = Console(file=io.StringIO(), width=width)
    paper.print(view.render())
    return paper.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def view() -> TrainingView:
    view = TrainingView(STARTED)
    view.console = Console(file=io.StringIO(), width=80, force_terminal=True)
    for event in events():
        view.show(event)
    return view


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 12), (60, 8), (200, 60)])
def test_the_panel_fits_every_terminal(view: TrainingView, width: int, height: int) -> None:
    lines = screen(view, width, height)
    assert max(map(len, lines)) <= width
    assert len(lines) <= height - 1


def test_the_panel_shows_what_matters(view: TrainingView) -> None:
    text = "\n".join(screen(view, 80, 24))
    shown = ["kiara train · tales", "50%", "step 400 of 800, 1:35 left", "0.5500", "validation 0.7500, best 0.7500",
             "9.88 k tokens/s", "123 GFLOP/s, 41% of the peak", "100 ms:", "forward 30%", "optimizer 9%", "1.00e-03",
             "gradient 0.70", "memory 512 MB", "saved at step 400", "sample", "◆"]  # fmt: skip
    assert [part for part in shown if part not in text] == []
    assert "[bold]Once[/] there was a fox." in text  # what a model writes is text, neither markup nor control codes


def test_a_panel_before_the_first_step_is_whole() -> None:
    assert "step 0 of 800" in "\n".join(screen(TrainingView(STARTED), 80, 24))


def test_a_request_to_stop_is_acknowledged(view: TrainingView) -> None:
    view.stopping = lambda: True
    assert "stopping after this step" in screen(view, 80, 24)[0]


def test_a_resized_terminal_is_cleared_once(view: TrainingView) -> None:
    clear = "\x1b[2J\x1b[H"
    frames = []
    for width in (80, 100, 100):
        view.console = Console(file=io.StringIO(), width=width, height=24, force_terminal=True)
        view.size = view.size if frames else view.console.size
        view.console.print(view.frame())
        frames.append(view.console.file.getvalue())  # type: ignore[attr-defined]
    assert [clear in frame for frame in frames] == [False, True, False]


def test_a_long_run_keeps_its_curve_short(view: TrainingView) -> None:
    for step in range(10_000):
        view.show(dataclasses.replace(STEP, step=step))
    assert len(view.losses) <= 2000


def test_troubles_stay_on_the_screen(view: TrainingView) -> None:
    view.console = Console(file=io.StringIO(), width=200, force_terminal=True, highlight=False)
    with view.showing():
        view.show(SKIPPED)
    assert "batch 10 skipped" in view.console.file.getvalue()  # type: ignore[attr-defined]


def test_plain_lines_name_step_loss_speed_and_time_left() -> None:
    line = plain_lines(STEP, 100)[0]
    assert all(part in line for part in ("step 10/100", "loss 2.5000", "9.88 k tokens/s", "1:35 left"))
    assert "best so far" in plain_lines(Evaluated(10, Metrics(200.0, 30, 100, 300), True, 1.0), 100)[0]
    assert "batch 10 skipped: loss nan, gradient nan (blocks.1.attention.qkv.weight)" in plain_lines(SKIPPED, 100)[0]
    assert "spiked from 1.0000 to 3.0000" in plain_lines(Spiked(5, 3.0, 1.0), 100)[0]
    assert plain_lines(Saved(3, Path("x"), 0.1), 100) == []


def test_long_lines_are_folded_and_wide_characters_count_twice() -> None:
    assert [line.plain for line in fold(["aaaa bbbb", "c"], 5, 9)] == ["aaaa", "bbbb", "c"]
    assert [line.plain for line in fold(["漢字漢字"], 5, 9)] == ["漢字", "漢字"]
    assert len(fold(["a" * 100] * 9, 10, 3)) == 3


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (59.4, "59 s"), (61, "1:01"), (3700, "1:01:40")])
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_amounts_read_like_people_say_them() -> None:
    assert [amount(n) for n in (0, 950, 1200, 3.4e6, 5e9)] == ["0", "950", "1.2 k", "3.4 M", "5 G"]
    assert amount(2e12, "FLOP") == "2 TFLOP"
