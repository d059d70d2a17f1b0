from __future__ import annotations

import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.train.average import Average


def move(model: Transformer, by: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)


def test_the_average_is_the_formulas_with_a_young_one_following_faster(tiny: ModelConfig) -> None:
    model = Transformer(tiny)
    average, expected = Average(model, 0.5), model.norm.weight.detach().clone()
    for step in range(1, 20):
        move(model, 1.0)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.norm.weight.detach()
    torch.testing.assert_close(average.state()["norm.weight"], expected)


def test_within_the_block_the_model_is_the_average_and_afterwards_itself_again(tiny: ModelConfig) -> None:
    model = Transformer(tiny)
    average = Average(model, 0.9)
    move(model, 1.0)
    average.update(1)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    means = {name: tensor.clone() for name, tensor in average.state().items()}
    with average.in_place():
        inside = model.state_dict()
        assert all(torch.equal(inside[name], tensor) for name, tensor in means.items())
        assert model.head.weight is model.tokens.weight
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in own.items())
    assert all(torch.equal(average.state()[name], tensor) for name, tensor in means.items())
