from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.lab.plotting import plot_page
from kiara_cli.core.lab.series import Axis, Series, curves_of, key_of, mean_of, series_of, smoothed
from kiara_cli.core.model.count import count
from kiara_cli.errors import KiaraError

MakeRun = Callable[..., Run]


@pytest.mark.parametrize(("x", "places", "measured"), [
    ("steps", (5.0, 10.0, 15.0, 20.0), (10.0, 20.0)),
    ("tokens", (50.0, 100.0, 150.0, 200.0), (100.0, 200.0)),
    ("flops", (300e3, 600e3, 900e3, 1200e3), (600e3, 1200e3)),
    ("seconds", (1.0, 2.0, 3.0, 4.0), (2.0, 4.0)),
])  # fmt: skip
def test_curves_stand_over_steps_tokens_flops_and_seconds(
    make_run: MakeRun, x: Axis, places: tuple[float, ...], measured: tuple[float, ...]
) -> None:
    run = make_run("a", loss=1.0)
    loss = series_of(run, x, "loss")
    assert loss.x == pytest.approx(places)
    assert loss.y == (16.0, 11.0, 6.0, 1.0)
    evaluated = series_of(run, x, key_of("bits_per_byte"))  # whose records have neither tokens nor seconds
    assert evaluated.x == pytest.approx(measured)
    assert evaluated.y == (1.0, 0.5)


def test_older_records_are_placed_by_their_rates_and_the_models_own_cost(make_run: MakeRun) -> None:
    run = make_run("a", "model.vocab_size=64", flops_per_token=None)
    rows = [{"step": 10, "loss": 2.0, "tokens": 100, "tokens_per_second": 50.0}, {"step": 15, "val_loss": 1.0},
            {"step": 20, "loss": 1.0, "tokens": 200, "tokens_per_second": 25.0}]  # fmt: skip
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert series_of(run, "seconds", "val_loss").x == pytest.approx((4.0,))
    (flops,) = series_of(run, "flops", "val_loss").x
    assert flops == pytest.approx(150 * count(run.config().model).training_flops)


def test_a_run_without_such_records_is_one_error_that_says_what_there_is(make_run: MakeRun) -> None:
    run = make_run("a")
    with pytest.raises(
        KiaraError, match="run a has no records of nothing; it has: loss, lr, seconds, tokens, val_bits"
    ):
        series_of(run, "steps", "nothing")
    (run.folder / "metrics.jsonl").write_text('{"step": 1, "val_loss": 3}\nbroken')
    assert series_of(run, "steps", "val_loss").y == (3.0,)
    with pytest.raises(KiaraError, match="run a has no records of its tokens; take --x steps"):
        series_of(run, "tokens", "val_loss")
    (run.folder / "metrics.jsonl").unlink()
    with pytest.raises(KiaraError, match="run a has no records; there is nothing to plot"):
        series_of(run, "steps", "loss")


def test_smoothing_starts_without_bias_and_keeps_a_constant() -> None:
    assert smoothed([3.0, 3.0, 3.0], 0.9) == pytest.approx((3.0, 3.0, 3.0))
    assert smoothed([1.0, 2.0], 0.5) == pytest.approx((1.0, (0.25 * 1 + 0.5 * 2) / 0.75))
    assert smoothed([1.0, 5.0], 0.0) == (1.0, 5.0)


def test_groups_are_their_mean_with_the_range_where_all_are_known(make_run: MakeRun) -> None:
    a = Series("a", (0.0, 1.0, 2.0), (0.0, 2.0, 4.0))
    b = Series("b", (1.0, 3.0), (4.0, 8.0))
    mean = mean_of("both", [a, b])
    assert (mean.name, mean.x, mean.y) == ("both (mean of 2)", (1.0, 2.0), (3.0, 5.0))
    assert (mean.low, mean.high) == ((2.0, 4.0), (4.0, 6.0))
    runs = [make_run("one", seed=1, loss=1.0), make_run("two", seed=2, loss=3.0), make_run("fast", "train.lr=0.1")]
    grouped = curves_of(runs, "steps", "val_loss", grouped=True)
    assert [each.name for each in grouped] == ["fast", "one (mean of 2)"]
    assert grouped[1].y == (3.0, 2.0)
    assert len(curves_of(runs, "steps", "val_loss")) == 3


def test_a_page_has_the_picture_the_results_what_differs_and_the_settings(make_run: MakeRun, root: Path) -> None:
    runs = [
        make_run("one", loss=1.25),
        make_run("fast", "train.lr=0.1"),
        make_run("other", text_hash="b", data_hash="b"),
    ]
    text = plot_page(curves_of(runs, "tokens", "loss"), runs, "tokens", "loss")
    assert text.count("<svg") == 1
    for words in ("1.2500", "train.lr=0.1 (there 0.012)", "not comparable: other data", "What differs from one"):
        assert words in text, words
