from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from kiara_cli.config.load import load_config
from kiara_cli.config.schema import Config
from kiara_cli.core.lab.planning import memory
from kiara_cli.core.lab.planning.memory import Rows, counted, followed
from kiara_cli.core.loss import Objective
from kiara_cli.core.model.count import count
from kiara_cli.core.model.transformer import Transformer

WORDS = (
    "model.vocab_size=128", "model.context_length=32", "model.emb_dim=32", "model.n_heads=2", "model.n_layers=2",
    "train.batch_size=4", "eval.batch_size=1", "runtime.device=cpu", "runtime.dtype=fp32", "runtime.native=false",
)  # fmt: skip


def configured(*words: str) -> Config:
    return load_config(overrides=[*WORDS, *words]).config


def saved_for_backward(config: Config) -> int:
    """Bytes of the storages that a real forward pass and its loss keep, but the weights'."""
    model = Transformer(config.model).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.zeros(config.train.batch_size, config.model.context_length, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = Objective()(model.states(ids).flatten(0, 1), model.unembed, ids.flatten())
    assert loss.requires_grad
    return sum(found.values())


@pytest.mark.parametrize(
    "words",
    [(), ("model.feedforward=gelu", "model.norm=layernorm", "model.n_kv_heads=1"), ("model.drop_rate=0.1",)],
    ids=["llama", "gpt", "dropout"],
)
def test_what_autograd_keeps_is_counted_as_a_real_forward_pass_keeps_it(words: tuple[str, ...]) -> None:
    config = configured(*words)
    assert counted(config).saved == pytest.approx(saved_for_backward(config), rel=0.02)


def test_weights_gradients_and_moments_are_four_numbers_a_parameter_for_adamw() -> None:
    config = configured("train.optimizer=adamw", "train.accumulation=2")
    parameters = count(config.model).parameters
    parts = counted(config).training
    assert parts["gradients"] == 4 * parameters  # which stay between the two
    assert parts["optimizer"] == pytest.approx(8 * parameters, rel=0.01)  # and a step count for each tensor
    assert parts["weights"] == pytest.approx(4 * parameters, rel=0.1)  # and the tables of the positions
    assert counted(configured("train.ema_decay=0.9")).training["average"] == 4 * parameters


@pytest.mark.parametrize(
    ("less", "part"),
    [
        ("train.recompute=true", "activations"),
        ("train.loss_chunk=16", "logits"),
        ("train.batch_size=2", "activations"),
    ],
)
def test_what_saves_memory_is_seen_to_save_it(less: str, part: str) -> None:
    large = ("model.vocab_size=2048", "model.n_layers=4")
    before, after = (counted(configured(*large, *words)) for words in ((), (less,)))
    assert sum(after.training.values()) < sum(before.training.values())
    assert after.saved < before.saved
    assert after.training.get(part, 0) < before.training[part]


def test_an_adapter_holds_gradients_and_moments_of_its_own_weights_alone() -> None:
    parts = counted(configured("train.lora.rank=2", "train.accumulation=2")).training
    whole = counted(configured("train.accumulation=2")).training
    assert parts["gradients"] < whole["gradients"] / 3
    assert parts["weights"] > whole["weights"]


def test_c_loops_and_masks_are_followed_too() -> None:
    config = configured("runtime.dtype=bf16")
    plain, fused = counted(config), counted(config, fused=True)
    assert fused.saved < plain.saved
    assert fused.piece.flops == plain.piece.flops
    assert fused.piece.calls < plain.piece.calls
    assert counted(config, Rows(1.0, segmented=True), fused=True).piece.moved > fused.piece.moved
    assert counted(config, Rows(0.5), fused=True).training["logits"] < fused.training["logits"]


def test_a_deep_model_lies_on_the_line_through_two_shallow_ones() -> None:
    config = configured("model.n_layers=9")
    line, whole = counted(config), followed(config, Rows(), fused=False)
    assert dataclasses.replace(line, piece=whole.piece, update=whole.update) == whole
    for one, other in ((line.piece, whole.piece), (line.update, whole.update)):
        assert one.flops == other.flops
        assert one.calls == pytest.approx(other.calls, rel=0.01)
        assert one.moved == pytest.approx(other.moved, rel=0.01)


def test_work_is_that_of_the_arithmetic_and_no_tensor_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured("train.optimizer=sgd")
    costs, tokens = count(config.model), 4 * 32
    arithmetic = costs.training_flops * tokens  # the fused kernel makes its scores again on the way back
    assert counted(config).piece.flops["float32"] == pytest.approx(arithmetic, rel=0.03)
    seen: list[Any] = []
    monkeypatch.setattr(memory, "measure", lambda model, *rest: seen.append(next(model.parameters())))
    counted(config)
    assert type(seen[0]).__mro__[0].__name__ in ("Parameter", "FakeTensor")
    assert isinstance(seen[0], torch._subclasses.FakeTensor)
