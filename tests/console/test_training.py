"""What a person sees while training."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from kiara_cli.console.output import amount, duration
from kiara_cli.console.training import TrainingView, plain_lines, sparkline
from kiara_cli.core.eval.metrics import Metrics
from kiara_cli.core.train.events import Evaluated, Sampled, Stepped

STEP = Stepped(10, 2.5, 1e-3, 0.7, 40_960, 9_876.0, 95.0)
EVENTS = [STEP, Evaluated(10, Metrics(200.0, 30, 100, 300), True), Sampled(10, "Hi", "[bold]Once[/] there was")]


def test_a_sparkline_falls_with_the_loss_and_keeps_to_its_width() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8) == "█▇▆▅▄▃▂▁"
    assert len(sparkline(list(range(1000)), 40)) == 40
    assert sparkline([1.0, 1.0], 10) == "▁▁"
    assert sparkline([], 10) == ""


@pytest.mark.parametrize("width", [40, 80, 160])
def test_the_panel_fits_the_terminal_and_shows_what_matters(width: int) -> None:
    view = TrainingView(100, "tales")
    view.console = Console(file=io.StringIO(), width=width, force_terminal=True)
    for event in EVENTS:
        view.show(event)
    screen = Console(file=io.StringIO(), width=width)
    screen.print(view.render())
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    assert "2.5000" in text
    assert "[bold]Once[/]" in text  # what a model writes is text, not markup


def test_plain_lines_name_step_loss_speed_and_time_left() -> None:
    line = plain_lines(STEP, 100)[0]
    assert all(part in line for part in ("step 10/100", "loss 2.5000", "9.88 k tokens/s", "1:35 left"))
    assert "best so far" in plain_lines(EVENTS[1], 100)[0]


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (59.4, "59 s"), (61, "1:01"), (3700, "1:01:40")])
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_amounts_read_like_people_say_them() -> None:
    assert [amount(n) for n in (0, 950, 1200, 3.4e6, 5e9)] == ["0", "950", "1.2 k", "3.4 M", "5 G"]
    assert amount(2e12, "FLOP") == "2 TFLOP"
