"""A resumed run is the straight run, and another training is not resumed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kiara_cli.config.load import load_config, to_mapping
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import files
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.data.prepare import Prepared, prepare
from kiara_cli.core.model import fused as native_loops
from kiara_cli.core.runtime import compile
from kiara_cli.core.runtime.native import CompilerError
from kiara_cli.core.train.build import begin
from kiara_cli.core.train.loop import train
from kiara_cli.core.train.plan import plan, settle
from kiara_cli.core.train.resume import plan_resumed, resume, resumed_config
from kiara_cli.core.train.state import Training
from kiara_cli.errors import KiaraError

ROOT = Path("checkpoints")
Configure = Callable[..., Config]
OF_THE_CLOCK = ("seconds", "tokens_per_second", "flops_per_second", "fraction_of_peak", "memory_bytes", "val_seconds")


@pytest.fixture
def stopped(configure: Configure, data: Prepared) -> Checkpoint:
    """The checkpoint of a run that has made two of its six steps."""
    training = begin(plan(configure(), data), ROOT, name="stopped")
    list(train(training, should_stop=lambda: training.progress.step == 2))
    return files.load(training.run.last)


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


def resumed(config: Config, checkpoint: Checkpoint, data: Prepared, run: Run, **allowed: bool) -> Training:
    return resume(plan_resumed(config, checkpoint, data, **allowed), checkpoint, run)


def timeless(training: Training) -> list[dict[str, Any]]:
    """Return the records without what the clock decides."""
    lines = (training.run.folder / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key not in OF_THE_CLOCK and key[-3:] != "_ms"}
        for line in lines
    ]


EVERYTHING = ("model.drop_rate=0.2", "train.accumulation=2", "train.checkpoint_interval=3", "train.log_interval=2")
HOOKS = {
    "ahead": "lookahead", "further": "ema_nesterov", "teacher": "self_distillation", "noisy": "gradient_noise",
    "seen": "activation_statistics",
}  # fmt: skip
VARIANTS = {
    "adamw": ("train.optimizer=adamw",),
    "muon": ("train.optimizer=muon",),
    "lion": ("train.optimizer=lion", "train.schedule=wsd"),
    "sgd": ("train.optimizer=sgd", "train.schedule=linear"),
    "bf16": ("runtime.dtype=bf16",),
    "fp16": ("runtime.dtype=fp16",),
    "average": ("train.ema_decay=0.9", "train.recompute=true", "train.loss_chunk=32", "train.z_loss=0.001"),
    "hooks": (*(f"hooks.{name}.use={use}" for name, use in HOOKS.items()), "hooks.noisy.at=blocks.*.resid_post",
              "hooks.ahead.with.every=4", "hooks.ahead.with.momentum=0.5", "hooks.seen.with.interval=1"),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stopped_by_signal", [False, True])
def test_a_resumed_run_is_the_straight_run_bit_for_bit(
    configure: Configure, data: Prepared, stopped_by_signal: bool, variant: str
) -> None:
    config = configure(*EVERYTHING, *VARIANTS[variant])
    straight = begin(plan(config, data), ROOT, name="straight")
    list(train(straight))

    parted = begin(plan(config, data), ROOT, name="parted")
    if stopped_by_signal:
        list(train(parted, should_stop=lambda: parted.progress.step == 3))
    else:
        list(train(parted))
        for later in (parted.run.last, *parted.run.steps()[1:]):
            later.unlink()
    torch.manual_seed(99)  # a new process has another random state
    checkpoint = files.load(parted.run.steps()[0])
    assert checkpoint.progress is not None
    assert checkpoint.progress["step"] == 3
    again = resumed(parted.config, checkpoint, data, parted.run)
    assert again.metrics["val_loss"] == checkpoint.metrics["val_loss"]
    *_, finished = train(again)

    assert finished.status == "finished"  # type: ignore[union-attr]
    assert_same(dict(again.model.state_dict()), dict(straight.model.state_dict()))
    assert_same(again.optimizer.state_dict(), straight.optimizer.state_dict())
    one, other = files.load(straight.run.last), files.load(again.run.last)
    assert_same(dict(one.model), dict(other.model))
    assert_same({**one.progress, "seconds": 0}, {**other.progress, "seconds": 0})  # type: ignore[dict-item]
    assert one.metrics == other.metrics
    assert timeless(straight) == timeless(again)


@pytest.mark.parametrize("interval", [1, 2, 5])
def test_another_checkpoint_interval_changes_nothing(configure: Configure, data: Prepared, interval: int) -> None:
    straight = begin(plan(configure(*EVERYTHING), data), ROOT, name="straight")
    list(train(straight))
    parted = begin(plan(configure(*EVERYTHING), data), ROOT, name="parted")
    list(train(parted, should_stop=lambda: parted.progress.step == 3))
    checkpoint = files.load(parted.run.last)
    word = f"train.checkpoint_interval={interval}"
    again = resumed(resumed_config(load_config(overrides=[word]), checkpoint), checkpoint, data, parted.run)
    list(train(again))
    assert_same(dict(again.model.state_dict()), dict(straight.model.state_dict()))


def test_a_checkpoint_between_two_evaluations_still_says_what_was_measured(
    configure: Configure, data: Prepared
) -> None:
    training = begin(plan(configure("train.max_steps=9"), data), ROOT)
    list(train(training, should_stop=lambda: training.progress.step == 4))
    again = resumed(training.config, files.load(training.run.last), data, training.run)
    list(train(again, should_stop=lambda: again.progress.step == 5))
    metrics = files.load(training.run.last).metrics
    assert metrics["step"] == 5
    assert metrics["val_loss"] == training.progress.best_val_loss


def test_a_run_that_is_being_trained_cannot_be_resumed(configure: Configure, data: Prepared) -> None:
    training = begin(plan(configure(), data), ROOT)
    events = train(training)
    while not training.run.last.is_file():
        next(events)
    with pytest.raises(KiaraError, match="text is being trained by another process; wait for it, or start a new run"):
        resumed(training.config, files.load(training.run.last), data, training.run)
    list(events)
    resumed(training.config, files.load(training.run.last), data, training.run).lock.release()


def test_other_data_is_refused_and_may_be_allowed(configure: Configure, data: Prepared, stopped: Checkpoint) -> None:
    tokenizer = stopped.make_tokenizer()
    Path("other.txt").write_text("the mat sat on the cat and the log sat on the dog. " * 40)
    config = configure("data.source=other.txt")
    other = prepare(config.data, config.tokenizer, Path("data"), tokenizer)
    run = Run.find(ROOT, "stopped")
    with pytest.raises(KiaraError, match="holds other data than .*; restore it, or .*--allow-changed-data"):
        resumed(configure(), stopped, other, run)
    config = settle(configure(), data.tokenizer)
    training = resumed(config, stopped, other, run, allow_changed_data=True)
    list(train(training))
    assert training.progress.step == 6
    assert training.run.facts()["data_changed_at_step"] == 2
    assert training.run.facts()["data_hash"] == other.meta.hash


def test_another_tokenizer_is_refused_even_if_changed_data_is_allowed(
    configure: Configure, stopped: Checkpoint
) -> None:
    Path("other.txt").write_text("quite different letters, 123! " * 90)
    config = configure("data.source=other.txt")
    other = prepare(config.data, config.tokenizer, Path("data"))
    with pytest.raises(KiaraError, match="another tokenizer than .*; a model cannot change its tokenizer"):
        resumed(configure(), stopped, other, Run.find(ROOT, "stopped"), allow_changed_data=True)


def test_weights_of_another_shape_are_refused(configure: Configure, data: Prepared, stopped: Checkpoint) -> None:
    weights = {**stopped.model, "norm.weight": torch.ones(7)}
    with pytest.raises(KiaraError, match=r"norm\.weight is \(7,\) in the file and \(32,\) in the model"):
        resumed(
            settle(configure(), data.tokenizer),
            dataclasses.replace(stopped, model=weights),
            data,
            Run.find(ROOT, "stopped"),
        )


def test_a_checkpoint_from_before_positions_were_counted_goes_on(
    configure: Configure, data: Prepared, stopped: Checkpoint
) -> None:
    assert stopped.progress is not None
    known = ("step", "tokens", "seconds", "best_val_loss", "best_step", "random")
    old = {key: stopped.progress[key] for key in known}
    run = Run.find(ROOT, "stopped")
    training = resumed(settle(configure(), data.tokenizer), dataclasses.replace(stopped, progress=old), data, run)
    assert training.progress.position == 2
    list(train(training))
    straight = begin(plan(configure(), data), ROOT)
    list(train(straight))
    assert_same(dict(training.model.state_dict()), dict(straight.model.state_dict()))


def test_resuming_takes_up_step_and_config(configure: Configure, data: Prepared, stopped: Checkpoint) -> None:
    loaded = load_config()
    assert to_mapping(resumed_config(loaded, stopped)) == stopped.config


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("model.n_layers=3", "model.n_layers=3: the run to resume has model.n_layers=2"),
        ("train.lr=0.1", f"train.lr=0.1: the run to resume has train.lr={Config().train.lr}"),
        ("train.batch_size=5", "the run to resume has train.batch_size=4"),
        ("tokenizer.kind=bpe", "the run to resume has tokenizer.kind=char"),
        ("data.val_fraction=0.2", "the run to resume has data.val_fraction=0.1"),
        ("runtime.seed=1", "the run to resume has runtime.seed=1337"),
    ],
)
def test_a_change_that_would_make_it_another_training_is_refused(stopped: Checkpoint, word: str, reason: str) -> None:
    with pytest.raises(KiaraError) as caught:
        resumed_config(load_config(overrides=[word]), stopped)
    assert reason in str(caught.value)


def test_a_refused_change_names_its_source(stopped: Checkpoint) -> None:
    with pytest.raises(KiaraError, match="KIARA__TRAIN__LR: train.lr=0.1"):
        resumed_config(load_config(environ={"KIARA__TRAIN__LR": "0.1"}), stopped)


def test_logging_intervals_and_a_larger_number_of_steps_may_change(stopped: Checkpoint) -> None:
    words = ["train.max_steps=9", "train.log_interval=5", "train.keep_last=7", "eval.sample_tokens=0"]
    words += ["logging.level=debug", f"train.lr={Config().train.lr}"]  # the last is as it was
    config = resumed_config(load_config(overrides=words), stopped)
    assert (config.train.max_steps, config.train.log_interval, config.train.keep_last) == (9, 5, 7)
    assert config.eval.sample_tokens == 0
    assert config.logging.level == "debug"
    assert config.train.batch_size == 4
    assert config.model.n_layers == 2


def test_the_default_config_of_the_working_folder_changes_nothing_on_resuming(stopped: Checkpoint) -> None:
    Path("configs").mkdir()
    Path("configs/default.yaml").write_text("model:\n  n_layers: 9\ntrain:\n  lr: 1.0\n")
    assert to_mapping(resumed_config(load_config(), stopped)) == stopped.config


def test_a_longer_run_goes_on_to_the_new_end(configure: Configure, data: Prepared, stopped: Checkpoint) -> None:
    config = resumed_config(load_config(overrides=["train.max_steps=8"]), stopped)
    training = resumed(config, stopped, data, Run.find(ROOT, "stopped"))
    assert training.progress.step == 2
    list(train(training))
    assert training.progress.step == 8
    facts = training.run.facts()
    assert (facts["status"], facts["step"]) == ("finished", 8)
    assert load_config([str(training.run.folder / "config.yaml")]).config.train.max_steps == 8


@pytest.mark.parametrize(
    ("words", "steps", "limit"),
    [
        (["train.max_epochs=2"], 57, "train.max_epochs"),
        (["train.max_steps=40"], 40, "train.max_steps"),
        (["train.max_epochs=2", "train.max_steps=40"], 40, "train.max_steps"),
        (["train.log_interval=2"], 29, "train.max_epochs"),
    ],
)
def test_a_run_limited_by_epochs_goes_on_to_a_new_limit_of_either_kind(
    configure: Configure, data: Prepared, words: list[str], steps: int, limit: str
) -> None:
    config = configure("train.max_epochs=1", "train.eval_interval=100", "eval.sample_tokens=0")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, max_steps=None))
    training = begin(plan(config, data), ROOT, name="epochs")
    list(train(training, should_stop=lambda: training.progress.step == 2))
    checkpoint = files.load(training.run.last)
    planned = plan_resumed(resumed_config(load_config(overrides=words), checkpoint), checkpoint, data)
    assert (planned.steps, planned.limit) == (steps, limit)


@pytest.mark.parametrize("word", ["train.max_steps=5", "train.max_epochs=0.1"])
def test_a_limit_below_what_was_planned_is_refused(data: Prepared, stopped: Checkpoint, word: str) -> None:
    config = resumed_config(load_config(overrides=[word]), stopped)
    with pytest.raises(
        KiaraError, match="the run was planned for 6 steps and has made 2; give a larger number"
    ) as no:
        plan_resumed(config, stopped, data)
    assert no.value.cause.startswith(f"{word}: ")
    assert no.value.key == word.split("=")[0]


def test_weights_alone_cannot_be_resumed(configure: Configure, data: Prepared) -> None:
    training = begin(plan(configure(), data), ROOT)
    list(train(training))
    best = files.load(training.run.best)
    with pytest.raises(KiaraError, match="weights alone and cannot be resumed; .*kiara train --from .*best.pt"):
        resumed(training.config, best, data, training.run)


def test_a_machine_that_cannot_honour_what_was_decided_is_said_so(
    configure: Configure, data: Prepared, stopped: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    remedy = (
        "resume it where there is one, or start a new run from it: kiara train --from checkpoints/stopped/last.pt"
    )
    run, config = Run.find(ROOT, "stopped"), settle(configure(), data.tokenizer)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    elsewhere = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, device="cuda"))
    with pytest.raises(KiaraError, match="has no cuda; ") as caught:
        resumed(elsewhere, stopped, data, run)
    assert caught.value.remedy == remedy
    monkeypatch.setattr(compile, "broken_toolchain", lambda device: "No working C++ compiler found")
    compiled = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, compile=True))
    wanted = r"the run has runtime.compile=true, and the compiler does not work here: No working C\+\+ compiler found"
    with pytest.raises(KiaraError, match=wanted) as caught:
        resumed(compiled, stopped, data, run)
    assert caught.value.remedy == remedy

    def missing() -> None:
        raise CompilerError("no C compiler")

    monkeypatch.setattr(native_loops, "load", missing)
    fused = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, native=True, dtype="bf16"))
    wanted = "the run has runtime.native=true, and the C compiler does not work here: no C compiler"
    with pytest.raises(KiaraError, match=wanted) as caught:
        resumed(fused, stopped, data, run)
    assert caught.value.remedy == remedy
