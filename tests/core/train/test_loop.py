from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import files
from kiara_cli.core.data.batches import IGNORE, Batch
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.data.prepare import prepare
from kiara_cli.core.eval.metrics import evaluate
from kiara_cli.core.loss import batch_loss
from kiara_cli.core.runtime.adaptive import Threads
from kiara_cli.core.runtime.pressure import Pressure
from kiara_cli.core.train import feed
from kiara_cli.core.train.build import begin
from kiara_cli.core.train.events import Evaluated, Event, Finished, Sampled, Saved, Stepped, ThreadsChanged
from kiara_cli.core.train.loop import train, update
from kiara_cli.core.train.meter import Meter
from kiara_cli.core.train.plan import decide_runtime, plan
from kiara_cli.core.train.state import Training
from kiara_cli.errors import KiaraError

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
    training = begin(plan(configure("train.max_steps=60", "train.eval_interval=60"), data), ROOT)
    events, finished = run(training)
    losses = [event.loss for event in events if isinstance(event, Stepped)]
    assert losses[0] > 2.5
    assert losses[-1] < 0.5 * losses[0]
    assert finished.val_loss is not None
    assert finished.val_loss < 0.5 * losses[0]


@pytest.mark.parametrize("way", ["accumulation", "pieces"])
def test_accumulated_halves_equal_one_whole_batch(
    configure: Configure, data: Prepared, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    def steps(training: Training, parts: int) -> list[float]:
        training.optimizer = torch.optim.SGD(training.model.parameters())
        made: list[float] = []
        for step in range(3):
            assert len(training.feed.take(step * training.config.train.accumulation).parts) == parts
            made += update(training, 0.1, Meter())[:2]
            training.progress.step += 1
        return made

    whole = begin(plan(configure("train.batch_size=8"), data), ROOT)
    losses_and_norms = steps(whole, 1)
    by_batches = way == "accumulation"
    if not by_batches:
        monkeypatch.setattr(feed, "PIECE", 4 * whole.plan.batcher.context_length)
    changed = ("train.batch_size=4", "train.accumulation=2") if by_batches else ("train.batch_size=8",)
    halves = begin(plan(configure(*changed), data), ROOT)
    assert steps(halves, 2) == pytest.approx(losses_and_norms, abs=1e-5)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(tensor, weights(halves)[name], rtol=0, atol=1e-5)


TALKS = [
    {"messages": [{"role": "user", "content": f"who is {n}?"}, {"role": "assistant", "content": f"{n} is a cat."}]}
    for n in range(60)
]
FEW = ("train.max_steps=2", "train.eval_interval=2", "model.drop_rate=0.1", "model.n_layers=1")
SAME = {
    "fp32": (),
    "bf16": ("runtime.dtype=bf16", "runtime.native=false"),
    "native": ("runtime.dtype=bf16", "runtime.native=true"),
    "packed": ("runtime.dtype=bf16", "data.source=talks.jsonl", "model.context_length=64"),
    "hooks": ("hooks.noise.use=gradient_noise", "hooks.noise.at=blocks.*.resid_post",
              "hooks.drawn.use=noise", "hooks.drawn.at=embed.out", "hooks.drawn.with.deviation=0.1",
               "hooks.teacher.use=self_distillation"),
}  # fmt: skip


@pytest.mark.parametrize("variant", SAME)
def test_the_same_run_twice_gives_the_same_bits(configure: Configure, variant: str) -> None:
    Path("text.txt").write_text("the cat sat on the mat and the dog sat on the log. " * 100)
    Path("talks.jsonl").write_text("".join(f"{json.dumps(talk)}\n" for talk in TALKS))
    config = configure(*FEW, *SAME[variant])
    found = []
    for _ in range(2):
        training = begin(plan(config, prepare(config.data, config.tokenizer, Path("data"))), ROOT)
        run(training)
        found.append((weights(training), [event["loss"] for event in records(training) if "loss" in event]))
    assert_same(*found)
    assert len(found[0][1]) == 2


def test_another_seed_gives_other_weights_and_batches(configure: Configure, data: Prepared) -> None:
    one = begin(plan(configure(), data), ROOT)
    other = begin(plan(configure("runtime.seed=7"), data), ROOT)
    assert not torch.equal(one.model.tokens.weight, other.model.tokens.weight)
    assert not torch.equal(one.plan.batcher.batch(0).inputs, other.plan.batcher.batch(0).inputs)


def test_a_training_that_fails_or_is_left_alone_says_so_in_run_json(configure: Configure, data: Prepared) -> None:
    failing, left = (begin(plan(configure("train.log_interval=1"), data), ROOT) for _ in range(2))
    failing.objective = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        list(train(failing))
    assert failing.run.facts()["status"] == "failed"
    assert failing.run.facts()["reason"].startswith("TypeError: ")
    events = train(left)
    next(events)
    assert left.run.facts()["status"] == "running"
    events.close()  # type: ignore[attr-defined]
    assert left.run.facts()["status"] == "interrupted"


def test_a_request_to_stop_saves_and_ends_as_interrupted(configure: Configure, data: Prepared) -> None:
    training = begin(plan(configure("train.checkpoint_interval=100", "train.log_interval=100"), data), ROOT)
    steps = itertools.count(1)
    events, finished = run(training, should_stop=lambda: next(steps) == 2)
    assert finished.status == "interrupted"
    assert finished.step == 2
    assert [type(event) for event in events] == [Saved]
    assert finished.last == training.run.last
    assert finished.best is None
    checkpoint = files.load(training.run.last)
    assert checkpoint.progress is not None
    assert checkpoint.progress["step"] == 2
    assert training.run.facts()["status"] == "interrupted"
    assert not (ROOT / "last.pt").exists()  # nothing was measured yet


def test_best_is_the_best(configure: Configure, data: Prepared) -> None:
    config = configure("train.max_steps=8", "train.eval_interval=1", "train.lr=0.3", "train.min_lr_ratio=1.0")
    training = begin(plan(config, data), ROOT)
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
    events, finished = run(begin(plan(configure("train.max_steps=4"), data), ROOT))
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
    training = begin(plan(configure("train.log_interval=2", "train.lr=0.01"), data), ROOT)
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
    fine = begin(plan(configure("train.max_steps=4", "eval.sample_tokens=0"), data), ROOT)
    coarse = begin(plan(configure("train.max_steps=4", "eval.sample_tokens=0", "train.log_interval=4"), data), ROOT)
    losses = [event.loss for event in run(fine)[0] if isinstance(event, Stepped)]
    (mean,) = [event.loss for event in run(coarse)[0] if isinstance(event, Stepped)]
    assert mean == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_samples_and_evaluations_leave_the_training_as_it_would_have_been(
    configure: Configure, data: Prepared
) -> None:
    quiet = begin(
        plan(configure("eval.sample_tokens=0", "train.eval_interval=100", "model.drop_rate=0.3"), data), ROOT
    )
    run(quiet)
    loud = begin(plan(configure("eval.sample_tokens=9", "train.eval_interval=1", "model.drop_rate=0.3"), data), ROOT)
    run(loud)
    assert_same(weights(quiet), weights(loud))


def test_safetensors_are_written_beside_each_checkpoint_when_asked_for(configure: Configure, data: Prepared) -> None:
    training = begin(plan(configure("train.save_safetensors=true", "train.keep_last=2"), data), ROOT)
    run(training)
    names = {path.name for path in training.run.folder.iterdir()}
    assert {"best.safetensors", "step_0000006.safetensors", "step_0000006.pt", "best.pt", "last.pt"} <= names
    pair = [files.load(training.run.best.with_suffix(suffix)) for suffix in (".pt", ".safetensors")]
    assert_same(dict(pair[0].model), dict(pair[1].model))


def test_the_step_size_is_that_of_the_schedule_and_clipping_limits_the_gradient(
    configure: Configure, data: Prepared
) -> None:
    training = begin(plan(configure("train.grad_clip=0.001", "train.lr=1.0"), data), ROOT)
    training.optimizer = torch.optim.SGD(training.model.parameters(), lr=77.0)
    before = weights(training)
    _, norm, _ = update(training, 0.5, Meter())
    moved = math.sqrt(sum(float((p.data - before[n]).square().sum()) for n, p in training.model.named_parameters()))
    assert norm > 0.001
    assert moved == pytest.approx(0.5 * 0.001, rel=1e-2)


def test_a_target_counts_the_same_in_whichever_batch_it_is(configure: Configure, data: Prepared) -> None:
    """Of two accumulated batches the one has few targets; its mean must not weigh as much as the other's."""
    training = begin(plan(configure("train.accumulation=2"), data), ROOT)
    batcher, draw = training.plan.batcher, type(training.plan.batcher).at

    def uneven(batcher: Any, places: Any) -> Batch:
        batch = draw(batcher, places)
        if places[0]:
            batch.targets[:, 1:] = IGNORE
        return Batch.of(batch.inputs, batch.targets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(batcher), "at", uneven)
        patch.setattr(type(batcher), "targets_at", lambda self, places: 4 + 4 * 16)
        with torch.no_grad():
            sums = [batch_loss(training.model, batcher.batch(step))[0].item() for step in (1, 0)]
        loss, _, _ = update(training, 0.0, Meter())
    assert loss == pytest.approx(sum(sums) / (4 + 4 * 16), rel=1e-5)


def test_a_target_batch_in_tokens_sets_the_accumulation(configure: Configure, data: Prepared) -> None:
    training = begin(plan(configure("train.batch_tokens=200"), data), ROOT)  # batches of 4 × 16
    assert training.config.train.accumulation == 3
    assert run(training)[1].tokens == 6 * 3 * 64
    assert begin(plan(configure("train.batch_tokens=10"), data), ROOT).config.train.accumulation == 1
    again = begin(plan(configure("train.batch_tokens=200", "train.accumulation=3"), data), ROOT)
    assert again.config.train.accumulation == 3
    with pytest.raises(KiaraError, match="train.batch_tokens=200 needs train.accumulation=3, not 5; leave one"):
        plan(configure("train.batch_tokens=200", "train.accumulation=5"), data)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lion", "sgd"])
def test_every_optimizer_learns(configure: Configure, data: Prepared, optimizer: str) -> None:
    lr = {"adamw": 0.01, "muon": 0.01, "lion": 0.003, "sgd": 0.2}[optimizer]
    words = ("train.max_steps=60", "train.eval_interval=60", f"train.optimizer={optimizer}", f"train.lr={lr}")
    _, finished = run(begin(plan(configure(*words, "eval.sample_tokens=0"), data), ROOT))
    assert finished.val_loss is not None
    assert finished.val_loss < 1.5  # of 2.9 at the start


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_lower_precisions_learn_and_keep_float32_weights(configure: Configure, data: Prepared, dtype: str) -> None:
    words = ("train.max_steps=40", "train.eval_interval=40", f"runtime.dtype={dtype}", "train.lr=0.01")
    training = begin(plan(configure(*words, "eval.sample_tokens=0"), data), ROOT)
    _, finished = run(training)
    assert finished.val_loss is not None
    assert finished.val_loss < 1.5
    assert {parameter.dtype for parameter in training.model.parameters()} == {torch.float32}


def test_an_average_of_the_weights_is_measured_and_kept_as_best(configure: Configure, data: Prepared) -> None:
    training = begin(plan(configure("train.ema_decay=0.9", "train.eval_interval=6"), data), ROOT)
    _, finished = run(training)
    best, last = files.load(training.run.best), files.load(training.run.last)
    assert any(not torch.equal(best.model[name], last.model[name]) for name in best.model)
    assert_same(dict(last.model), files.weights_of(training.model))
    assert training.average is not None
    averages = training.average.state()
    for name, tensor in best.model.items():
        torch.testing.assert_close(tensor, averages[name], rtol=0, atol=0)
    model = best.make_model(training.config.model)
    assert evaluate(model, data.val, data.tokenizer, training.runtime, 32).loss == finished.val_loss


def test_patience_ends_a_run_that_gets_no_better(configure: Configure, data: Prepared) -> None:
    words = ("train.max_steps=50", "train.eval_interval=1", "train.patience=2", "train.lr=1.0", "train.grad_clip=0")
    training = begin(plan(configure(*words, "train.optimizer=sgd", "train.min_lr_ratio=1.0"), data), ROOT)
    events, finished = run(training)
    measured = [event for event in events if isinstance(event, Evaluated)]
    assert finished.status == "finished"
    assert finished.step < 50
    assert [event.is_best for event in measured[-2:]] == [False, False]
    assert finished.reason == "no new best in 2 evaluations (train.patience)"
    assert files.load(training.run.last).metrics["step"] == finished.step
    assert training.run.facts()["reason"] == finished.reason


def test_recomputing_changes_no_gradient_and_holds_less(configure: Configure, data: Prepared) -> None:
    held, trained = [], []
    for words in ((), ("train.recompute=true",)):
        training = begin(plan(configure("model.drop_rate=0.2", "model.n_layers=4", *words), data), ROOT)
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            batch_loss(training.model.train(), training.plan.batcher.batch(0))
        held.append(sum(kept.values()))
        torch.manual_seed(5)
        run(training)
        trained.append(weights(training))
    assert_same(*trained)
    assert held[1] < 0.6 * held[0]


def test_nothing_waits_for_the_device_but_one_reading_an_update(configure: Configure, data: Prepared) -> None:
    """A scalar that Python asks of a tensor is where a GPU would be waited for."""
    training = begin(plan(configure("train.accumulation=3", "train.optimizer=adamw"), data), ROOT)
    update(training, 0.01, Meter())
    asked = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
                asked.append(args[0].shape)
            return function(*args, **(kwargs or {}))

    with Watch():
        update(training, 0.01, Meter())
    assert len(asked) <= 2  # the loss and the norm, in one transfer


def test_each_change_of_threads_is_an_event_a_record_and_counted_in_run_json(
    configure: Configure, data: Prepared
) -> None:
    training = begin(plan(configure("train.max_steps=5", "runtime.threads=auto"), data), ROOT)
    assert json.loads((training.run.folder / "run.json").read_text())["threads"] == training.runtime.threads
    clock = itertools.count(step=0.5)
    waiting = (Pressure(at, 0.4 * at, 0.0) for at in itertools.count())
    training.threads = Threads(2, True, 1.0, lambda: next(waiting), lambda: float(next(clock)))
    events, _ = run(training)
    changed = [event for event in events if isinstance(event, ThreadsChanged)]
    assert [(event.before, event.threads, event.stays) for event in changed] == [(2, 1, False), (1, 2, False)]
    found = [record for record in records(training) if "threads_before" in record]
    assert [record["step"] for record in found] == [event.step for event in changed]
    assert json.loads((training.run.folder / "run.json").read_text())["thread_changes"] == 2


def test_a_run_that_was_left_to_adapt_adapts_again_when_it_is_resumed(configure: Configure, data: Prepared) -> None:
    training = begin(plan(configure("train.max_steps=2", "runtime.threads=auto"), data), ROOT)
    assert training.config.runtime.threads == "auto"
    assert training.runtime.adaptive
    compiled = dataclasses.replace(training.config.runtime, compile=True)
    assert not decide_runtime(compiled, 1)[1].adaptive  # it would be compiled again
