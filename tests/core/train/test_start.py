from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kiara_cli.config.load import load_config, to_mapping
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import files
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.train import start
from kiara_cli.core.train.loop import train
from kiara_cli.errors import KiaraError

ROOT = Path("checkpoints")
Configure = Callable[..., Config]


@pytest.fixture
def stopped(configure: Configure, data: Prepared) -> Checkpoint:
    """The checkpoint of a run that has made two of its six steps."""
    training = start.begin(configure(), data, ROOT, name="stopped")
    list(train(training, should_stop=lambda: training.progress.step == 2))
    return files.load(training.run.last)


def test_the_vocabulary_is_the_tokenizers_rounded_up(configure: Configure, data: Prepared) -> None:
    assert data.tokenizer.size < 64
    assert start.settle(configure(), data.tokenizer).model.vocab_size == 64
    assert start.settle(configure("model.vocab_size=100"), data.tokenizer).model.vocab_size == 100


def test_a_vocabulary_too_small_for_the_tokenizer_is_refused(configure: Configure, data: Prepared) -> None:
    with pytest.raises(KiaraError, match=r"model\.vocab_size=3 is smaller than the tokenizer's \d+ ids; .* 64"):
        start.settle(configure("model.vocab_size=3"), data.tokenizer)


def test_the_plan_counts_what_the_run_will_do(configure: Configure, data: Prepared) -> None:
    plan = start.plan(configure("train.accumulation=2"), data)
    assert plan.steps == 6
    assert plan.tokens == 6 * 2 * 4 * 16
    assert plan.epochs == pytest.approx(plan.tokens / len(data.train), rel=0.05)
    assert plan.count.parameters == sum(p.numel() for p in Transformer(plan.config.model).parameters())
    assert plan.training_flops == 3 * plan.count.forward_flops * plan.tokens
    assert plan.training_bytes > 16 * plan.count.parameters
    assert not ROOT.exists()


def test_the_smaller_of_max_steps_and_max_epochs_counts(configure: Configure, data: Prepared) -> None:
    per_epoch = len(data.train) / (4 * 16)
    assert start.plan(configure("train.max_epochs=0.1"), data).steps == pytest.approx(0.1 * per_epoch, abs=1)
    assert start.plan(configure("train.max_epochs=1000"), data).steps == 6
    assert start.plan(configure("train.max_epochs=1e-9"), data).steps == 1
    two = start.plan(configure("train.max_epochs=0.1", "train.accumulation=2"), data)
    assert two.steps == pytest.approx(0.05 * per_epoch, abs=1)


def test_data_shorter_than_one_window_is_refused(configure: Configure, data: Prepared) -> None:
    with pytest.raises(KiaraError, match=r"model\.context_length=9999 .*10,000; use a longer text"):
        start.plan(configure("model.context_length=9999"), data)


def test_a_new_run_is_described_and_its_auto_settings_decided(configure: Configure, data: Prepared) -> None:
    training = start.begin(configure("runtime.device=auto", "runtime.dtype=auto"), data, ROOT)
    facts = training.run.facts()
    assert facts["status"] == "running"
    assert facts["seed"] == 1337
    assert facts["data_hash"] == data.meta.hash
    assert facts["tokenizer_hash"] == data.meta.tokenizer_hash
    assert facts["parameters"] == sum(p.numel() for p in training.model.parameters())
    written = load_config([str(training.run.folder / "config.yaml")]).config
    assert written == training.config
    assert written.runtime.device in ("cpu", "cuda", "mps")
    assert written.runtime.dtype in ("fp32", "bf16")


def test_a_run_from_a_checkpoint_starts_with_its_weights(
    configure: Configure, data: Prepared, stopped: Checkpoint
) -> None:
    training = start.begin(configure(), data, ROOT, weights=stopped)
    own = files.weights_of(training.model)
    assert all(torch.equal(own[name], tensor) for name, tensor in stopped.model.items())
    assert training.progress.step == 0
    assert training.run.facts()["from"] == str(stopped.path)


def test_resuming_takes_up_step_and_config(configure: Configure, data: Prepared, stopped: Checkpoint) -> None:
    loaded = load_config()
    assert to_mapping(start.resumed_config(loaded, stopped)) == stopped.config


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("model.n_layers=3", "model.n_layers=3: the run to resume has model.n_layers=2"),
        ("train.lr=0.1", f"train.lr=0.1: the run to resume has train.lr={Config().train.lr}"),
        ("train.batch_size=5", "the run to resume has train.batch_size=4"),
        ("tokenizer.kind=bpe", "the run to resume has tokenizer.kind=char"),
        ("data.val_fraction=0.2", "the run to resume has data.val_fraction=0.1"),
        ("runtime.seed=1", "the run to resume has runtime.seed=1337"),
        ("train.max_steps=1", "the run has made 2 steps already; give a larger number"),
    ],
)
def test_a_change_that_would_make_it_another_training_is_refused(stopped: Checkpoint, word: str, reason: str) -> None:
    with pytest.raises(KiaraError) as caught:
        start.resumed_config(load_config(overrides=[word]), stopped)
    assert reason in str(caught.value)


def test_a_refused_change_names_its_source(stopped: Checkpoint) -> None:
    with pytest.raises(KiaraError, match="KIARA__TRAIN__LR: train.lr=0.1"):
        start.resumed_config(load_config(environ={"KIARA__TRAIN__LR": "0.1"}), stopped)


def test_logging_intervals_and_a_larger_number_of_steps_may_change(stopped: Checkpoint) -> None:
    words = ["train.max_steps=9", "train.log_interval=5", "train.keep_last=7", "eval.sample_tokens=0"]
    words += ["logging.level=debug", f"train.lr={Config().train.lr}"]  # the last is as it was
    config = start.resumed_config(load_config(overrides=words), stopped)
    assert (config.train.max_steps, config.train.log_interval, config.train.keep_last) == (9, 5, 7)
    assert config.eval.sample_tokens == 0
    assert config.logging.level == "debug"
    assert config.train.batch_size == 4
    assert config.model.n_layers == 2


def test_the_default_config_of_the_working_folder_changes_nothing_on_resuming(stopped: Checkpoint) -> None:
    Path("configs").mkdir()
    Path("configs/default.yaml").write_text("model:\n  n_layers: 9\ntrain:\n  lr: 1.0\n")
    assert to_mapping(start.resumed_config(load_config(), stopped)) == stopped.config


def test_a_longer_run_goes_on_to_the_new_end(configure: Configure, data: Prepared, stopped: Checkpoint) -> None:
    config = start.resumed_config(load_config(overrides=["train.max_steps=8"]), stopped)
    training = start.resume(config, stopped, data, Run.find(ROOT, "stopped"))
    assert training.progress.step == 2
    list(train(training))
    assert training.progress.step == 8
    facts = training.run.facts()
    assert (facts["status"], facts["step"]) == ("finished", 8)
    assert load_config([str(training.run.folder / "config.yaml")]).config.train.max_steps == 8


def test_weights_alone_cannot_be_resumed(configure: Configure, data: Prepared) -> None:
    training = start.begin(configure(), data, ROOT)
    list(train(training))
    best = files.load(training.run.best)
    with pytest.raises(KiaraError, match="weights alone and cannot be resumed; .*kiara train --from .*best.pt"):
        start.resume(training.config, best, data, training.run)
