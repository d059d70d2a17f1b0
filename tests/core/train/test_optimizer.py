from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import TrainConfig
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.train.optimizer import MUON_RMS, OPTIMIZERS, make_optimizer, orthogonalize

KINDS = list(OPTIMIZERS)


def config_for(kind: Any, **settings: Any) -> TrainConfig:
    return dataclasses.replace(TrainConfig(), optimizer=kind, **settings)


def take_steps(model: Transformer, optimizer: torch.optim.Optimizer, count: int) -> None:
    for step in range(count):
        model((torch.arange(16)[None] + step) % 64).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_in_one_group_and_only_matrices_decay(every_model: list[ModelConfig], kind: str) -> None:
    for config in every_model[::7]:
        model = Transformer(config)
        groups = make_optimizer(model, config_for(kind, weight_decay=0.3)).param_groups
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        held = [names[id(parameter)] for group in groups for parameter in group["params"]]
        assert sorted(held) == sorted(names.values())
        for group in groups:
            for parameter in group["params"]:
                name = names[id(parameter)]
                rests = "norm" in name or name.endswith("bias")
                assert group["weight_decay"] == (0.0 if rests else 0.3), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_without_a_gradient_stays_as_it_is(tiny: ModelConfig, kind: str) -> None:
    model = Transformer(tiny)
    frozen = [model.tokens.weight, next(p for p in model.blocks.parameters() if p.ndim == 2)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    before = [parameter.clone() for parameter in frozen]
    take_steps(model, make_optimizer(model, config_for(kind)), 2)
    assert all(torch.equal(*pair) for pair in zip(before, frozen, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_of_every_group_can_be_set_and_counts(tiny: ModelConfig, kind: str) -> None:
    model = Transformer(tiny)
    optimizer = make_optimizer(model, config_for(kind, lr=0.5, beta1=0.7, beta2=0.8))
    assert all(group["lr"] == 0.5 for group in optimizer.param_groups)
    memories = [group.get("betas", (group.get("momentum"), 0.8)) for group in optimizer.param_groups]
    assert (0.7, 0.8) in map(tuple, memories)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = {name: value.clone() for name, value in model.named_parameters()}
    take_steps(model, optimizer, 2)
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_was_loaded_goes_on_bit_for_bit(tiny: ModelConfig, kind: str) -> None:
    straight = Transformer(tiny)
    optimizer = make_optimizer(straight, config_for(kind))
    take_steps(straight, optimizer, 3)
    again = Transformer(tiny)
    again.load_state_dict(straight.state_dict())
    other = make_optimizer(again, config_for(kind, lr=77.0))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each in (optimizer, other):
        for group in each.param_groups:
            group["lr"] = 0.01
    take_steps(straight, optimizer, 2)
    take_steps(again, other, 2)
    for name, value in straight.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_adamws_first_update_is_that_of_the_textbook(tiny: ModelConfig) -> None:
    """It decays, then moves by the gradient's sign: w (1 - lr λ) - lr g / (|g| + ε)."""
    model = Transformer(tiny)
    optimizer = make_optimizer(model, config_for("adamw", lr=0.1, weight_decay=0.5))
    before = {name: value.clone() for name, value in model.named_parameters()}
    model(torch.arange(16)[None]).square().mean().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        decay = 0.5 if parameter.ndim >= 2 else 0.0
        expected = before[name] * (1 - 0.1 * decay) - 0.1 * parameter.grad / (parameter.grad.abs() + 1e-8)
        torch.testing.assert_close(parameter.data, expected, rtol=1e-3, atol=1e-4)


def test_lions_updates_are_those_of_its_paper(tiny: ModelConfig) -> None:
    """It moves by the sign of a fast blend of momentum and gradient, and remembers a slow one (algorithm 2)."""
    model = Transformer(tiny)
    optimizer = make_optimizer(model, config_for("lion", lr=0.1, weight_decay=0.5, beta1=0.9, beta2=0.99))
    momenta = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for step in range(3):
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        model((torch.arange(16)[None] + step) % 64).square().mean().backward()
        optimizer.step()
        for name, parameter in model.named_parameters():
            gradient, momentum = parameter.grad, momenta[name]
            assert gradient is not None
            decay = 0.5 if parameter.ndim >= 2 else 0.0
            move = (0.9 * momentum + 0.1 * gradient).sign() + decay * before[name]
            differs = (parameter.detach() - (before[name] - 0.1 * move)).abs() > 1e-5
            assert differs.float().mean() < 1e-3, name  # a blend that rounds to another sign is rare
            momenta[name] = 0.99 * momentum + 0.01 * gradient
        optimizer.zero_grad()


def test_sgds_updates_are_the_gradient_and_nesterovs_momentum(tiny: ModelConfig) -> None:
    model = Transformer(tiny)
    optimizer = make_optimizer(model, config_for("sgd", lr=0.1, weight_decay=0.0, beta1=0.5))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    model(torch.arange(16)[None]).square().mean().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.data, before[name] - 0.1 * 1.5 * parameter.grad, rtol=1e-4, atol=1e-6)


def test_muons_update_of_a_matrix_has_the_size_of_adamws(tiny: ModelConfig) -> None:
    model = Transformer(tiny.replace(emb_dim=64))
    optimizer = make_optimizer(model, config_for("muon", lr=0.1, weight_decay=0.0))
    before = {name: value.clone() for name, value in model.named_parameters()}
    model(torch.randint(64, (8, 16))).square().mean().backward()
    optimizer.step()
    for name, parameter in model.blocks.named_parameters(prefix="blocks"):
        if parameter.ndim == 2:
            moved = float((parameter - before[name]).detach().square().mean().sqrt())
            assert 0.3 * MUON_RMS < moved / 0.1 < 1.5 * MUON_RMS, name


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 16, 48), (2, 48, 16)])
def test_orthogonalizing_brings_singular_values_near_one_and_keeps_the_vectors(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    made = orthogonalize(matrices)
    inside = u.mT @ made @ v.mT  # diagonal where the vectors are the same
    values = inside.diagonal(dim1=1, dim2=2)
    assert float(values[:, :-1].min()) > 0.3  # the smallest one may lag behind: five rounds are few
    assert float(values.max()) < 1.3
    torch.testing.assert_close(inside, torch.diag_embed(values), rtol=0, atol=1e-3)
