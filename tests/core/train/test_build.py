from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kiara_cli.config.load import load_config
from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import files
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.train import build
from kiara_cli.core.train.build import Transformation, begin
from kiara_cli.core.train.loop import train
from kiara_cli.core.train.plan import Plan, plan

ROOT = Path("checkpoints")
Configure = Callable[..., Config]


@pytest.fixture
def stopped(configure: Configure, data: Prepared) -> Checkpoint:
    """The checkpoint of a run that has made two of its six steps."""
    training = begin(plan(configure(), data), ROOT, name="stopped")
    list(train(training, should_stop=lambda: training.progress.step == 2))
    return files.load(training.run.last)


def test_a_new_run_is_described_and_its_auto_settings_decided(configure: Configure, data: Prepared) -> None:
    training = begin(plan(configure("runtime.device=auto", "runtime.dtype=auto"), data), ROOT)
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
    training = begin(plan(configure(), data), ROOT, weights=stopped)
    own = files.weights_of(training.model)
    assert all(torch.equal(own[name], tensor) for name, tensor in stopped.model.items())
    assert training.progress.step == 0
    assert training.run.facts()["from"] == str(stopped.path)


def test_transformations_are_applied_in_the_order_of_the_table_and_only_those_asked_for(
    configure: Configure, data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noting(one: Transformation) -> Transformation:
        def apply(model: Transformer, plan: Plan) -> Transformer:
            done.append(one.name)
            return one.apply(model, plan)

        return one._replace(apply=apply)

    monkeypatch.setattr(build, "TRANSFORMATIONS", tuple(map(noting, build.TRANSFORMATIONS)))
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    assert [one.name for one in build.TRANSFORMATIONS] == ["lora", "hooks", "recompute", "fuse", "compile", "spread"]
    planned = plan(configure("train.recompute=true"), data)
    build.begin(planned, ROOT)
    assert done == ["recompute"]
    runtime = dataclasses.replace(planned.config.runtime, compile=True)
    build.begin(dataclasses.replace(planned, config=dataclasses.replace(planned.config, runtime=runtime)), ROOT)
    assert done == ["recompute", "recompute", "compile"]


def test_what_is_compiled_runs_in_training_alone(tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []

    def compiled(function: Callable[..., torch.Tensor], dynamic: bool) -> Callable[..., torch.Tensor]:
        return lambda *inputs, **named: passes.append(1) or function(*inputs, **named)  # type: ignore[func-returns-value]

    monkeypatch.setattr(torch, "compile", compiled)
    ids = torch.zeros(1, 4, dtype=torch.long)
    plain = Transformer(tiny)
    model = build.compile_states(copy.deepcopy(plain))
    assert torch.equal(model(ids), plain(ids))
    assert passes == [1]
    assert torch.equal(model.eval()(ids), plain.eval()(ids))
    assert passes == [1]


def test_a_setting_that_cannot_be_honoured_is_a_warning(
    configure: Configure, data: Prepared, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build.log.parent, "propagate", True)
    build.begin(plan(configure("runtime.native=true"), data), ROOT)
    assert "runtime.native=true cannot be honoured: the C loops are for bf16 on a CPU" in caplog.text
