"""Each thing that goes wrong with numbers, provoked."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import files
from kiara_cli.core.data.prepare import Prepared
from kiara_cli.core.train.build import begin
from kiara_cli.core.train.events import Finished, Skipped, Stepped
from kiara_cli.core.train.loop import train
from kiara_cli.core.train.numerics import FIRST_SCALE, loss_spike, lower_loss_scale, raise_loss_scale
from kiara_cli.core.train.plan import plan
from kiara_cli.core.train.progress import Progress
from kiara_cli.core.train.records import record_of
from kiara_cli.core.train.state import Training

ROOT = Path("checkpoints")
Configure = Callable[..., Config]


def plant(training: Training, poison: float, positions: set[int]) -> None:
    """Spoil the gradient of one weight at some batches, through a hook on the tensor."""

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * poison if training.progress.position - 1 in positions else gradient

    training.model.blocks[1].feedforward.down.weight.register_hook(spoil)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_bad_batch_is_skipped_and_changes_nothing(configure: Configure, data: Prepared, poison: float) -> None:
    training = begin(plan(configure("eval.sample_tokens=0", "train.optimizer=muon"), data), ROOT)
    plant(training, poison, {2})
    before: dict[str, Any] = {}
    seen = []
    for event in train(training):
        if isinstance(event, Skipped):
            weights = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
            assert all(torch.equal(before[name], tensor) for name, tensor in weights.items())
        before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
        if isinstance(event, Stepped | Skipped):
            seen.append((type(event), event.step))
    assert seen[2:4] == [(Skipped, 3), (Stepped, 3)]
    assert isinstance(event, Finished)
    assert (event.status, event.step) == ("finished", 6)
    assert (training.progress.position, training.progress.skipped, training.progress.skipped_in_a_row) == (7, 1, 0)


@pytest.mark.parametrize("allowed", [0, 2])
def test_too_many_bad_batches_in_a_row_end_the_run_as_diverged(
    configure: Configure, data: Prepared, allowed: int
) -> None:
    training = begin(plan(configure(f"train.skip_batches={allowed}", "train.eval_interval=2"), data), ROOT)
    plant(training, math.nan, set(range(3, 99)))
    events = list(train(training))
    skipped = [event for event in events if isinstance(event, Skipped)]
    assert [(event.step, event.batch, event.in_a_row) for event in skipped] == [
        (4, 3 + index, 1 + index) for index in range(allowed + 1)
    ]
    assert {event.parameter for event in skipped} == {"blocks.1.feedforward.down.weight"}
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.status, finished.step) == ("diverged", 3)
    assert finished.reason == (
        f"step 4, batch {3 + allowed}: the gradient is not finite (blocks.1.feedforward.down.weight)"
    )
    facts = training.run.facts()
    assert (facts["status"], facts["step"], facts["reason"]) == ("diverged", 3, finished.reason)
    assert finished.last == training.run.last
    assert files.load(training.run.last).metrics["step"] == 2  # the last good one
    for path in training.run.folder.glob("*.pt"):
        assert all(bool(tensor.isfinite().all()) for tensor in files.load(path).model.values())
    assert record_of(skipped[0]) == {
        "step": 4, "skipped_batch": 3, "parameter": "blocks.1.feedforward.down.weight"
    }  # fmt: skip


def test_a_loss_that_is_not_finite_is_caught_too(configure: Configure, data: Prepared) -> None:
    training = begin(plan(configure("train.skip_batches=0"), data), ROOT)
    training.model.norm.register_forward_hook(lambda module, inputs, output: output * math.inf)
    *_, finished = train(training)
    assert finished.status == "diverged"  # type: ignore[union-attr]
    assert "step 1, batch 0: the loss is not finite" in finished.reason  # type: ignore[union-attr]
    assert finished.last is None  # type: ignore[union-attr]


def test_a_loss_that_leaps_is_a_spike_and_noise_is_not() -> None:
    progress = Progress()
    noisy = [2.0 + 0.05 * (-1) ** step for step in range(30)]
    assert [loss_spike(progress, loss) for loss in noisy] == [None] * 30
    usual = loss_spike(progress, 4.0)
    assert usual == pytest.approx(2.0, abs=0.1)
    falling = Progress()
    assert [loss_spike(falling, 5.0 * 0.9**step) for step in range(40)] == [None] * 40


def test_fp16s_scale_halves_when_it_overflows_and_doubles_when_it_has_long_not() -> None:
    progress = Progress(step=10, loss_scale=FIRST_SCALE)
    assert lower_loss_scale(progress)
    assert progress.loss_scale == FIRST_SCALE / 2
    progress.step += 1999
    raise_loss_scale(progress)
    assert progress.loss_scale == FIRST_SCALE / 2
    progress.step += 1
    raise_loss_scale(progress)
    assert progress.loss_scale == FIRST_SCALE
    progress.loss_scale = 1.0
    assert not lower_loss_scale(progress)


def test_an_overflow_of_fp16_is_no_divergence(configure: Configure, data: Prepared) -> None:
    training = begin(plan(configure("runtime.dtype=fp16", "train.skip_batches=0"), data), ROOT)
    training.progress.loss_scale = 2.0**30  # far too large
    events = list(train(training))
    assert events[-1].status == "finished"  # type: ignore[union-attr]
    skipped = [event for event in events if isinstance(event, Skipped)]
    assert 0 < len(skipped) < 25
    assert training.progress.loss_scale == 2.0 ** (30 - len(skipped))
    assert {event.in_a_row for event in skipped} == {0}
