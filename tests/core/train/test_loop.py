from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import files
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.eval.metrics import evaluate
from kiara_cli.core.train import start
from kiara_cli.core.train.events import Evaluated, Event, Finished, Sampled, Saved, Stepped
from kiara_cli.core.train.loop import train, update
from kiara_cli.core.train.start import Training

ROOT = Path("checkpoints")
Configure = Callable[..., Config]


def run(training: Training, **arguments: Any) -> tuple[list[Event], Finished]:
    *events, last = train(training, **arguments)
    assert isinstance(last, Finished)
    return events, last


def records(training: Training) -> list[dict[str, Any]]:
    lines = (training.run.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.model.state_dict().items()}


def assert_same(one: Any, other: Any) -> None:
    """Compare nested containers, tensors bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert one == other


def test_the_loss_falls_on_a_text_that_repeats_itself(configure: Configure, data: Prepared) -> None:
    training = start.begin(configure("train.max_steps=60", "train.eval_interval=60"), data, ROOT)
    events, finished = run(training)
    losses = [event.loss for event in events if isinstance(event, Stepped)]
    assert losses[0] > 2.5
    assert losses[-1] < 0.5 * losses[0]
    assert finished.val_loss is not None
    assert finished.val_loss < 0.5 * losses[0]


def test_accumulated_halves_equal_one_whole_batch(configure: Configure, data: Prepared) -> None:
    whole = start.begin(configure("train.batch_size=8"), data, ROOT)
    halves = start.begin(configure("train.batch_size=4", "train.accumulation=2"), data, ROOT)
    assert_same(weights(whole), weights(halves))
    for training in (whole, halves):
        training.optimizer = torch.optim.SGD(training.model.parameters())
    for step in range(3):
        loss_whole, norm_whole = update(whole, 0.1)
        loss_halves, norm_halves = update(halves, 0.1)
        assert float(loss_whole) == pytest.approx(float(loss_halves), abs=1e-5)
        assert norm_whole == pytest.approx(norm_halves, abs=1e-5)
        whole.progress.step = halves.progress.step = step + 1
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(tensor, weights(halves)[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stop_by_signal", [False, True])
def test_a_resumed_run_is_the_straight_run_bit_for_bit(
    configure: Configure, data: Prepared, stop_by_signal: bool, optimizer: str
) -> None:
    config = configure(
        "model.drop_rate=0.2", "train.accumulation=2", "train.checkpoint_interval=3", f"train.optimizer={optimizer}"
    )
    straight = start.begin(config, data, ROOT, name="straight")
    run(straight)

    parted = start.begin(config, data, ROOT, name="parted")
    if stop_by_signal:
        run(parted, should_stop=lambda: parted.progress.step == 3)
        path = parted.run.last
    else:
        run(parted)
        path = parted.run.steps()[0]
    assert path.exists()
    torch.manual_seed(99)  # a new process has another random state
    checkpoint = files.load(path)
    assert checkpoint.progress is not None
    assert checkpoint.progress["step"] == 3
    resumed = start.resume(parted.config, checkpoint, data, parted.run)
    _, finished = run(resumed)

    assert finished.status == "finished"
    assert_same(weights(resumed), weights(straight))
    assert_same(resumed.optimizer.state_dict(), straight.optimizer.state_dict())
    one, other = files.load(straight.run.last), files.load(resumed.run.last)
    assert_same(dict(one.model), dict(other.model))
    assert one.progress is not None
    assert other.progress is not None
    assert_same({**one.progress, "seconds": 0}, {**other.progress, "seconds": 0})
    timeless = [
        [{k: v for k, v in record.items() if k != "tokens_per_second"} for record in records(training)]
        for training in (straight, resumed)
    ]
    assert timeless[0] == timeless[1]


def test_the_same_run_twice_gives_the_same_weights(configure: Configure, data: Prepared) -> None:
    one = start.begin(configure("model.drop_rate=0.1"), data, ROOT)
    run(one)
    other = start.begin(configure("model.drop_rate=0.1"), data, ROOT)
    run(other)
    assert one.run.name != other.run.name
    assert_same(weights(one), weights(other))


def test_another_seed_gives_other_weights_and_batches(configure: Configure, data: Prepared) -> None:
    one = start.begin(configure(), data, ROOT)
    other = start.begin(configure("runtime.seed=7"), data, ROOT)
    assert not torch.equal(one.model.tokens.weight, other.model.tokens.weight)
    assert not torch.equal(one.batcher.batch(0)[0], other.batcher.batch(0)[0])


def test_a_request_to_stop_saves_and_ends_as_interrupted(configure: Configure, data: Prepared) -> None:
    training = start.begin(configure("train.checkpoint_interval=100", "train.log_interval=100"), data, ROOT)
    steps = itertools.count(1)
    events, finished = run(training, should_stop=lambda: next(steps) == 2)
    assert finished.status == "interrupted"
    assert finished.step == 2
    assert [type(event) for event in events] == [Stepped, Saved]
    assert finished.last == training.run.last
    assert finished.best is None
    checkpoint = files.load(training.run.last)
    assert checkpoint.progress is not None
    assert checkpoint.progress["step"] == 2
    assert training.run.facts()["status"] == "interrupted"
    assert not (ROOT / "last.pt").exists()  # nothing was measured yet


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_ends_the_run_and_changes_nothing(
    configure: Configure, data: Prepared, poison: float
) -> None:
    training = start.begin(configure("train.eval_interval=1"), data, ROOT)
    taken = 0

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * poison if training.progress.step == 2 else gradient

    training.model.norm.weight.register_hook(spoil)
    before: dict[str, torch.Tensor] = {}
    for event in train(training):
        if isinstance(event, Stepped):
            taken += 1
            before = weights(training)
    assert isinstance(event, Finished)
    assert (event.status, event.step, taken) == ("diverged", 2, 2)
    assert_same(weights(training), before)
    assert training.run.facts()["status"] == "diverged"
    for path in training.run.folder.glob("*.pt"):
        assert all(bool(tensor.isfinite().all()) for tensor in files.load(path).model.values())


def test_best_is_the_best(configure: Configure, data: Prepared) -> None:
    config = configure("train.max_steps=8", "train.eval_interval=1", "train.lr=0.3", "train.min_lr_ratio=1.0")
    training = start.begin(config, data, ROOT)
    events, finished = run(training)
    measured = {event.step: event.metrics.loss for event in events if isinstance(event, Evaluated)}
    assert len(set(measured.values())) == 8
    best = min(measured, key=lambda step: measured[step])
    so_far = list(itertools.accumulate(measured.values(), min))
    marks = [event.is_best for event in events if isinstance(event, Evaluated)]
    assert marks == [loss == low for loss, low in zip(measured.values(), so_far, strict=True)]
    assert finished.val_loss == measured[best]
    assert finished.best == training.run.best
    checkpoint = files.load(training.run.best)
    assert checkpoint.metrics["step"] == best
    assert checkpoint.metrics["val_loss"] == measured[best]
    assert checkpoint.optimizer is None
    model = checkpoint.make_model(training.config.model)
    again = evaluate(model, data.val, data.tokenizer, training.runtime, 32)
    assert again.loss == pytest.approx(measured[best], rel=1e-6)
    assert (ROOT / "best.pt").read_bytes() == training.run.best.read_bytes()
    assert (ROOT / "last.pt").read_bytes() == training.run.last.read_bytes()


def test_events_arrive_in_order(configure: Configure, data: Prepared) -> None:
    events, finished = run(start.begin(configure("train.max_steps=4"), data, ROOT))
    seen = [(type(event), event.step) for event in events if not isinstance(event, Finished)]
    expected = [
        (Stepped, 1),
        (Stepped, 2), (Saved, 2),
        (Stepped, 3), (Evaluated, 3), (Saved, 3), (Sampled, 3), (Saved, 3),
        (Stepped, 4), (Evaluated, 4), (Saved, 4), (Sampled, 4), (Saved, 4),
    ]  # fmt: skip
    assert seen == expected
    assert finished.status == "finished"
    assert finished.step == 4


def test_each_logged_step_and_each_evaluation_is_a_record(configure: Configure, data: Prepared) -> None:
    training = start.begin(configure("train.log_interval=2", "train.lr=0.01"), data, ROOT)
    events, finished = run(training)
    logged = [record for record in records(training) if "loss" in record]
    measured = [record for record in records(training) if "val_loss" in record]
    assert [record["step"] for record in logged] == [2, 4, 6]
    assert [record["step"] for record in measured] == [3, 6]
    for record in logged:
        assert record["perplexity"] == pytest.approx(math.exp(record["loss"]))
        assert 0 < record["lr"] <= 0.01
        assert record["grad_norm"] > 0
        assert record["tokens_per_second"] > 0
        assert record["tokens"] == record["step"] * 4 * 16
    for record in measured:
        assert record["val_perplexity"] == pytest.approx(math.exp(record["val_loss"]))
        assert {"val_bits_per_byte", "val_accuracy", "val_tokens"} <= record.keys()
    assert finished.tokens == 6 * 4 * 16
    assert [event.loss for event in events if isinstance(event, Stepped)] == [record["loss"] for record in logged]


def test_the_logged_loss_is_the_mean_since_the_last_record(configure: Configure, data: Prepared) -> None:
    fine = start.begin(configure("train.max_steps=4", "eval.sample_tokens=0"), data, ROOT)
    coarse = start.begin(configure("train.max_steps=4", "eval.sample_tokens=0", "train.log_interval=4"), data, ROOT)
    losses = [event.loss for event in run(fine)[0] if isinstance(event, Stepped)]
    (mean,) = [event.loss for event in run(coarse)[0] if isinstance(event, Stepped)]
    assert mean == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_samples_and_evaluations_leave_the_training_as_it_would_have_been(
    configure: Configure, data: Prepared
) -> None:
    quiet = start.begin(
        configure("eval.sample_tokens=0", "train.eval_interval=100", "model.drop_rate=0.3"), data, ROOT
    )
    run(quiet)
    loud = start.begin(configure("eval.sample_tokens=9", "train.eval_interval=1", "model.drop_rate=0.3"), data, ROOT)
    run(loud)
    assert_same(weights(quiet), weights(loud))


def test_safetensors_are_written_beside_each_checkpoint_when_asked_for(configure: Configure, data: Prepared) -> None:
    training = start.begin(configure("train.save_safetensors=true", "train.keep_last=1"), data, ROOT)
    run(training)
    names = {path.name for path in training.run.folder.iterdir()}
    assert {"best.safetensors", "step_0000006.safetensors", "step_0000006.pt", "best.pt", "last.pt"} <= names
    pair = [files.load(training.run.best.with_suffix(suffix)) for suffix in (".pt", ".safetensors")]
    assert_same(dict(pair[0].model), dict(pair[1].model))


def test_the_step_size_is_that_of_the_schedule_and_clipping_limits_the_gradient(
    configure: Configure, data: Prepared
) -> None:
    training = start.begin(configure("train.grad_clip=0.001", "train.lr=1.0"), data, ROOT)
    training.optimizer = torch.optim.SGD(training.model.parameters(), lr=77.0)
    before = weights(training)
    _, norm = update(training, 0.5)
    moved = math.sqrt(sum(float((p.data - before[n]).square().sum()) for n, p in training.model.named_parameters()))
    assert norm > 0.001
    assert moved == pytest.approx(0.5 * 0.001, rel=1e-2)
