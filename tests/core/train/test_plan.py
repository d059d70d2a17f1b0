from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from kiara_cli.config.load import load_config
from kiara_cli.config.schema import DEFAULT_STEPS, Config
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.train.plan import plan, settle
from kiara_cli.errors import KiaraError

ROOT = Path("checkpoints")
Configure = Callable[..., Config]


def test_the_vocabulary_is_the_tokenizers_rounded_up(configure: Configure, data: Prepared) -> None:
    assert data.tokenizer.size < 64
    assert settle(configure(), data.tokenizer).model.vocab_size == 64
    assert settle(configure("model.vocab_size=100"), data.tokenizer).model.vocab_size == 100


def test_a_vocabulary_too_small_for_the_tokenizer_is_refused(configure: Configure, data: Prepared) -> None:
    with pytest.raises(KiaraError, match=r"model\.vocab_size=3 is smaller than the tokenizer's \d+ ids; .* 64"):
        settle(configure("model.vocab_size=3"), data.tokenizer)


def test_the_plan_counts_what_the_run_will_do(configure: Configure, data: Prepared) -> None:
    found = plan(configure("train.accumulation=2"), data)
    assert found.steps == 6
    assert found.tokens == 6 * 2 * 4 * 16
    assert found.epochs == pytest.approx(found.tokens / len(data.train), rel=0.05)
    assert found.count.parameters == sum(p.numel() for p in Transformer(found.config.model).parameters())
    assert found.training_flops == 3 * found.count.forward_flops * found.tokens
    assert found.training_bytes > 16 * found.count.parameters
    assert not ROOT.exists()


def test_the_smaller_of_max_steps_and_max_epochs_counts(configure: Configure, data: Prepared) -> None:
    per_epoch = len(data.train) / (4 * 16)
    assert plan(configure("train.max_epochs=0.1"), data).steps == pytest.approx(0.1 * per_epoch, abs=1)
    assert plan(configure("train.max_epochs=1000"), data).steps == 6
    assert plan(configure("train.max_epochs=1e-9"), data).steps == 1
    two = plan(configure("train.max_epochs=0.1", "train.accumulation=2"), data)
    assert two.steps == pytest.approx(0.05 * per_epoch, abs=1)


def test_what_was_set_limits_a_run_and_the_default_does_not(configure: Configure, data: Prepared) -> None:
    words = ("model.context_length=16", "model.emb_dim=32", "model.n_layers=1", "train.batch_size=4")

    def planned(*limits: str) -> tuple[int, str, int | None]:
        found = plan(load_config(overrides=[*words, *limits]).config, data)
        return found.steps, found.limit, found.config.train.max_steps

    assert planned() == (DEFAULT_STEPS, "train.max_steps", DEFAULT_STEPS)
    steps, limit, stored = planned("train.max_epochs=100")
    assert steps == pytest.approx(100 * len(data.train) / (4 * 16), rel=0.05)
    assert steps > DEFAULT_STEPS
    assert (limit, stored) == ("train.max_epochs", None)
    assert planned("train.max_epochs=100", "train.max_steps=7")[:2] == (7, "train.max_steps")
    Path("configs").mkdir()
    Path("configs/default.yaml").write_text("train:\n  max_steps: null\n")  # which spells every setting out
    assert planned("train.max_epochs=100")[0] == steps


def test_a_plan_decides_every_auto_and_says_what_cannot_be_done(configure: Configure, data: Prepared) -> None:
    auto = plan(configure("runtime.device=auto", "runtime.dtype=auto", "runtime.threads=auto"), data)
    assert "auto" not in dataclasses.astuple(auto.config.runtime)
    assert auto.how.startswith(f"{auto.runtime.device_name}, {auto.runtime.dtype}, ")
    assert auto.unmet == {}
    fused = plan(configure("runtime.native=true", "runtime.dtype=fp32"), data)
    assert fused.config.runtime.native is False
    assert fused.unmet == {"native": "the C loops are for bf16 on a CPU"}


def test_data_shorter_than_one_window_is_refused(configure: Configure, data: Prepared) -> None:
    with pytest.raises(KiaraError, match=r"model\.context_length=9999 .*10,000; use a longer text"):
        plan(configure("model.context_length=9999"), data)
