"""The meter shows what the clock and the arithmetic say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import Config
from kiara_cli.core.data.batches import Batch
from kiara_cli.core.data.prepare import Prepared
from kiara_cli.core.loss import batch_loss
from kiara_cli.core.model.count import count
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.train.build import begin
from kiara_cli.core.train.loop import train
from kiara_cli.core.train.meter import WINDOW, Meter
from kiara_cli.core.train.plan import plan


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


def test_the_rate_is_tokens_by_seconds_of_training(clock: Clock) -> None:
    meter = Meter()
    meter.begin("forward")
    clock.now += 2.0
    meter.add(300)
    assert meter.read().tokens_per_second == pytest.approx(150.0)


def test_a_step_is_split_into_its_phases(clock: Clock) -> None:
    meter = Meter()
    for _ in range(4):
        for phase, seconds in (("data", 1.0), ("forward", 2.0), ("backward", 4.0), ("forward", 2.0),
                               ("backward", 4.0), ("optimizer", 0.5)):  # fmt: skip
            meter.begin(phase)  # type: ignore[arg-type]
            clock.now += seconds
        meter.begin(None)
        meter.add(27)
    reading = meter.read()
    assert reading.seconds == {"data": 1.0, "forward": 4.0, "backward": 8.0, "optimizer": 0.5}
    assert reading.tokens_per_second == pytest.approx(2.0)
    assert set(meter.read().seconds.values()) == {0.0}  # since that reading


def test_evaluation_saving_and_pauses_do_not_count(clock: Clock) -> None:
    meter = Meter()
    clock.now += 50.0
    for _ in range(3):
        meter.begin("forward")
        clock.now += 1.0
        meter.begin("evaluation")
        clock.now += 70.0
        meter.begin("saving")
        clock.now += 9.0
        meter.begin(None)
        clock.now += 20.0
        meter.add(100)
    assert meter.read().tokens_per_second == pytest.approx(100.0)


def test_the_rate_is_that_of_the_last_readings_alone(clock: Clock) -> None:
    meter = Meter()
    meter.begin("forward")
    clock.now += 1000.0  # a slow first interval: compiling, say
    meter.add(1)
    meter.read()
    for _ in range(WINDOW):
        meter.add(100)
        clock.now += 1.0
        rate = meter.read().tokens_per_second
    assert rate == pytest.approx(100.0)


def test_a_reading_without_time_or_tokens_is_a_number(clock: Clock) -> None:
    meter = Meter(peak=1e9)
    assert meter.read().tokens_per_second == 0.0
    assert meter.read().fraction_of_peak == 0.0
    meter.begin("data")
    meter.add(5)
    assert meter.read().tokens_per_second > 0.0
    assert Meter().read().fraction_of_peak is None


def test_a_lap_counts_all_time_since_the_one_before(clock: Clock) -> None:
    meter = Meter()
    clock.now += 3.0
    assert meter.lap() == 3.0
    meter.begin("forward")
    clock.now += 5.0
    assert meter.lap() == 5.0
    assert meter.lap() == 0.0


def test_the_fraction_of_the_peak_follows_from_hand_counted_flops(clock: Clock) -> None:
    """Two layers of width 32, context 16, GELU of 4 × 32, vocabulary 64: a multiply and an add are two operations."""
    config = ModelConfig(
        vocab_size=64, context_length=16, emb_dim=32, n_heads=4, n_layers=2, feedforward="gelu", positions="learned"
    )
    products = 3 * 32 * 32 + 32 * 32 + 2 * 32 * 128  # qkv, out, up and down: weights that each token meets
    attention = 2 * 32 * 8.5  # scores and mixing over 8.5 positions on average
    by_hand = 3 * 2 * (2 * (products + attention) + 64 * 32)  # forward once, backward twice; two layers and the head
    meter = Meter(count(config).training_flops, peak=1e9)
    meter.begin("forward")
    clock.now += 2.0
    meter.add(1000)
    reading = meter.read()
    assert reading.flops_per_second == pytest.approx(500 * by_hand, rel=1e-4)
    assert reading.fraction_of_peak == pytest.approx(500 * by_hand / 1e9, rel=1e-4)


@pytest.mark.parametrize("feedforward", ["gelu", "swiglu"])
def test_the_count_of_flops_is_what_torch_counts_in_a_real_step(feedforward: str) -> None:
    """Torch counts attention over the whole square; the causal half is what we call work."""
    config = ModelConfig(
        vocab_size=64, context_length=16, emb_dim=32, n_heads=4, n_layers=2, feedforward=feedforward  # type: ignore[arg-type]
    )  # fmt: skip
    model, ids = Transformer(config), torch.randint(64, (3, 16))
    with (
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        batch_loss(model, Batch.of(ids, ids))[0].backward()  # type: ignore[no-untyped-call]
    unmasked = 3 * config.n_layers * 4 * 32 * (16 - 17 / 2)
    assert counter.get_total_flops() == pytest.approx(48 * (count(config).training_flops + unmasked), rel=1e-6)


def test_training_reports_what_it_reached(configure: Callable[..., Config], data: Prepared) -> None:
    training = begin(plan(configure("train.max_steps=2", "eval.sample_tokens=0"), data), Path("checkpoints"))
    first = next(train(training))
    reading = first.reading  # type: ignore[union-attr]
    flops = count(training.config.model).training_flops
    assert reading.flops_per_second == pytest.approx(reading.tokens_per_second * flops)
    assert 0 < reading.fraction_of_peak < 1
    assert all(seconds > 0 for seconds in reading.seconds.values())
    assert first.memory > 50e6  # type: ignore[union-attr]
