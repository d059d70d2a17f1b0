from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kiara_cli.config.load import load_config
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import files
from kiara_cli.core.checkpoint.files import Checkpoint
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
