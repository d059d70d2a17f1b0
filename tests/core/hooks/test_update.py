from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import TrainConfig
from kiara_cli.core.hooks import update
from kiara_cli.core.hooks.context import UpdateContext
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.train.optimizer import OPTIMIZERS, make_optimizer
from kiara_cli.errors import KiaraError

QKV = "blocks.0.attention.qkv.weight"
Weights = dict[str, Tensor]


class Training:
    """A model whose gradients are drawn from the step, and an optimizer with hooks around its step."""

    def __init__(self, tiny: ModelConfig, *hooks: Any, optimizer: str = "sgd", beta1: float = 0.0) -> None:
        torch.manual_seed(0)
        self.model, self.hooks, self.strength, self.made = Transformer(tiny), hooks, 1.0, 0
        config = TrainConfig(optimizer=optimizer, lr=0.1, beta1=beta1, weight_decay=0.1)  # type: ignore[arg-type]
        self.optimizer = make_optimizer(self.model, config)
        self.named = dict(self.model.named_parameters())

    def step(self, lr: float = 0.1) -> Weights:
        """Make an update; return the gradients as the optimizer saw them."""
        self.made += 1
        drawn = torch.Generator().manual_seed(self.made)
        for parameter in self.named.values():
            parameter.grad = torch.randn(parameter.shape, generator=drawn)
        about = {"optimizer": self.optimizer, "model": self.model, "seed": 0, "log": lambda name, value: None}
        context = UpdateContext("mine", self.made, 10, lr, self.strength, **about)  # type: ignore[arg-type]
        self.call("gradients", context)
        self.call("before_step", context)
        gradients = {name: p.grad.clone() for name, p in self.named.items() if p.grad is not None}
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.call("after_step", context)
        return gradients

    @torch.no_grad()
    def call(self, method: str, context: UpdateContext) -> None:
        for hook in self.hooks:
            if hasattr(hook, method):
                getattr(hook, method)(self.named, context)

    def weights(self) -> Weights:
        return {name: parameter.detach().clone() for name, parameter in self.named.items()}


def moved(one: Weights, other: Weights) -> Weights:
    return {name: other[name] - one[name] for name in one}


def test_centralized_gradients_have_rows_of_mean_zero(tiny: ModelConfig) -> None:
    plain, hooked = Training(tiny).step(), Training(tiny, update.Centralize()).step()
    training = Training(tiny, update.Centralize())
    training.strength = 0.5
    half = training.step()
    for name, gradient in plain.items():
        means = gradient.mean(1, keepdim=True) if gradient.ndim == 2 and name.startswith("blocks") else 0.0
        torch.testing.assert_close(hooked[name], gradient - means)
        torch.testing.assert_close(half[name], gradient - 0.5 * means)


def test_a_projected_gradient_is_at_right_angles_to_its_weights(tiny: ModelConfig) -> None:
    training = Training(tiny, update.ProjectGradient())
    weights, plain = training.weights(), Training(tiny).step()
    projected = training.step()
    for name, gradient in projected.items():
        if gradient.ndim == 2 and name.startswith("blocks"):
            assert float((gradient * weights[name]).sum(1).abs().max()) < 1e-4
            assert float((gradient * plain[name]).sum()) == pytest.approx(float(gradient.square().sum()), rel=1e-4)
        else:
            assert torch.equal(gradient, plain[name])


@pytest.mark.parametrize("exactly", [False, True])
def test_rows_stay_within_a_length_or_have_it(tiny: ModelConfig, exactly: bool) -> None:
    plain, bound = Training(tiny), Training(tiny, update.BoundNorm(0.7, "blocks.*.attention", exactly))
    plain.step()
    bound.step()
    for name, weight in bound.weights().items():
        free = plain.weights()[name]
        if ".attention." in name and weight.ndim == 2:
            lengths, before = weight.norm(dim=1), free.norm(dim=1)
            wanted = torch.full_like(before, 0.7) if exactly else before.clamp(max=0.7)
            torch.testing.assert_close(lengths, wanted)
            torch.testing.assert_close(weight / lengths[:, None], free / before[:, None])
        else:
            assert torch.equal(weight, free)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_frozen_weights_keep_their_bits_and_the_optimizer_its_memory_of_them(
    tiny: ModelConfig, optimizer: str
) -> None:
    frozen = Training(tiny, optimizer=optimizer, beta1=0.9)
    frozen.step()
    before = frozen.weights()
    frozen.hooks = (update.Freeze("blocks.0"),)
    frozen.step()
    for name, weight in frozen.weights().items():
        assert torch.equal(weight, before[name]) == name.startswith("blocks.0.")
    frozen.hooks = (update.Freeze("{blocks,tokens,norm}"),)
    memory = copy.deepcopy(frozen.optimizer.state_dict())
    frozen.step()
    torch.testing.assert_close(frozen.optimizer.state_dict(), memory, rtol=0, atol=0)
    frozen.hooks = ()
    frozen.step()
    assert str(frozen.optimizer.state_dict()) != str(memory)


def test_rates_of_layers_multiply_what_an_update_changes(tiny: ModelConfig) -> None:
    plain, rated = Training(tiny), Training(tiny, update.LayerRates(factor=2.0, decay=0.5))
    begun = plain.weights()
    plain.step()
    rated.step()
    factors = {"tokens": 0.5, "blocks.0": 1.0, "blocks.1": 2.0, "norm": 2.0}  # 2 × 0.5 for each block above
    ways, rated_ways = moved(begun, plain.weights()), moved(begun, rated.weights())
    for name, way in ways.items():
        factor = next(factor for part, factor in factors.items() if name.startswith(part))
        torch.testing.assert_close(rated_ways[name], factor * way, rtol=1e-4, atol=1e-6)
    still = Training(tiny, update.LayerRates("blocks.1.feedforward", factor=0.0))
    still.step()
    same = {name for name, weight in still.weights().items() if torch.equal(weight, begun[name])}
    assert same == {name for name in begun if name.startswith("blocks.1.feedforward.")}


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_lookahead_is_its_formula(tiny: ModelConfig, momentum: float) -> None:
    training = Training(tiny, update.Lookahead(every=2, share=0.25, momentum=momentum))
    slow, speed = training.weights()[QKV], torch.zeros(())
    for _ in range(3):
        fast = slow.clone()
        for _ in range(2):
            gradient = training.step()[QKV]
            fast = fast * (1 - 0.1 * 0.1) - 0.1 * gradient
        way = fast - slow
        speed = momentum * speed + way
        slow = slow + 0.25 * (way + momentum * speed)
        torch.testing.assert_close(training.weights()[QKV], slow)


def test_lookahead_over_one_update_that_goes_all_the_way_changes_nothing(tiny: ModelConfig) -> None:
    plain, hooked = Training(tiny), Training(tiny, update.Lookahead(every=1, share=1.0))
    for _ in range(3):
        plain.step()
        hooked.step()
    torch.testing.assert_close(hooked.weights(), plain.weights())


def test_ema_nesterov_is_its_formula_and_falls_with_the_learning_rate(tiny: ModelConfig) -> None:
    training = Training(tiny, update.EmaNesterov(reach=0.5, decay=0.75))
    x = training.weights()[QKV]
    ahead, mean = x, torch.zeros_like(x)
    for lr in (0.1, 0.1, 0.05, 0.0):
        made = ahead * (1 - 0.1 * lr) - lr * training.step(lr)[QKV]
        mean = 0.75 * mean + 0.25 * (made - x)
        x = made
        ahead = x + 0.5 * (lr / 0.1) * mean
        torch.testing.assert_close(training.weights()[QKV], ahead)
    torch.testing.assert_close(training.weights()[QKV], x)  # the last rate was 0: nothing is ahead


STATEFUL: list[Callable[[], Any]] = [
    lambda: update.Lookahead(every=3, momentum=0.5),
    lambda: update.EmaNesterov(),
]


@pytest.mark.parametrize("make", STATEFUL)
def test_the_state_is_all_that_goes_on_needs(tiny: ModelConfig, make: Callable[[], Any]) -> None:
    straight, first = Training(tiny, make()), Training(tiny, make())
    for _ in range(7):
        straight.step()
    for _ in range(4):
        first.step()
    resumed = Training(tiny, make())
    resumed.model.load_state_dict(first.model.state_dict())
    resumed.optimizer.load_state_dict(first.optimizer.state_dict())
    resumed.hooks[0].load_state_dict(copy.deepcopy(first.hooks[0].state_dict()))
    resumed.made = 4
    for _ in range(3):
        resumed.step()
    torch.testing.assert_close(resumed.weights(), straight.weights(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (update.BoundNorm, {"norm": 0.0}),
        (update.LayerRates, {"factor": -1.0}),
        (update.Lookahead, {"every": 0}),
        (update.EmaNesterov, {"decay": 1.0}),
    ],
)
def test_arguments_without_a_meaning_are_refused(make: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(KiaraError, match="with"):
        make(**arguments)


def test_parameters_that_the_model_does_not_have_are_named(tiny: ModelConfig) -> None:
    with pytest.raises(KiaraError, match=r"with.parameters=blocks.7: the model has no such parameter"):
        Training(tiny, update.Freeze("blocks.7")).step()
