from __future__ import annotations

import dataclasses

import torch

from kiara_cli.config.schema import ModelConfig, TrainConfig
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.train.optimizer import make_optimizer


def test_matrices_and_embeddings_decay_and_norms_and_biases_do_not(every_model: list[ModelConfig]) -> None:
    for config in every_model[::7]:
        model = Transformer(config)
        decays, rests = make_optimizer(model, TrainConfig(weight_decay=0.3)).param_groups
        assert (decays["weight_decay"], rests["weight_decay"]) == (0.3, 0.0)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        decaying = {names[id(parameter)] for parameter in decays["params"]}
        resting = {names[id(parameter)] for parameter in rests["params"]}
        assert decaying | resting == set(names.values())
        assert not decaying & resting
        assert all("norm" in name or name.endswith("bias") for name in resting)
        assert not any("norm" in name or name.endswith("bias") for name in decaying)


def test_a_parameter_without_a_gradient_is_left_out(tiny: ModelConfig) -> None:
    model = Transformer(tiny)
    model.tokens.weight.requires_grad_(False)
    groups = make_optimizer(model, TrainConfig()).param_groups
    assert all(parameter is not model.tokens.weight for group in groups for parameter in group["params"])


def test_the_settings_are_those_of_the_config(tiny: ModelConfig) -> None:
    config = TrainConfig(lr=0.5, beta1=0.7, beta2=0.8)
    for group in make_optimizer(Transformer(tiny), config).param_groups:
        assert group["lr"] == 0.5
        assert tuple(group["betas"]) == (0.7, 0.8)


def test_an_update_is_that_of_the_textbook(tiny: ModelConfig) -> None:
    """AdamW's first step moves by the sign of the gradient, after decay: w (1 - lr λ) - lr g / (|g| + ε)."""
    model = Transformer(dataclasses.replace(tiny, n_layers=1))
    optimizer = make_optimizer(model, TrainConfig(lr=0.1, weight_decay=0.5))
    before = {name: value.clone() for name, value in model.named_parameters()}
    model(torch.arange(16)[None]).square().mean().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        decay = 0.5 if parameter.ndim >= 2 else 0.0
        expected = before[name] * (1 - 0.1 * decay) - 0.1 * parameter.grad / (parameter.grad.abs() + 1e-8)
        torch.testing.assert_close(parameter.data, expected, rtol=1e-3, atol=1e-4)
