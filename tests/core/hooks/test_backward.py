from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.hooks import backward
from kiara_cli.core.hooks.context import At
from kiara_cli.core.hooks.select import Select
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError


@pytest.fixture
def at(tiny: ModelConfig) -> At:
    about = {"hook": "mine", "point": "blocks.0.resid_post", "axes": "BTD", "select": Select(), "strength": 1.0}
    place = {"step": 3, "number": 0, "start": 0, "seed": 7, "training": True, "again": False, "attached": None}
    return At(model=Transformer(tiny), log=lambda name, value: None, **about, **place)  # type: ignore[arg-type]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def through(hook: Callable[..., Tensor], at: At, grad: Tensor, **arguments: Any) -> Tensor:
    """Return what becomes of a gradient on its way through a hook that must leave the numbers as they are."""
    x = numbers(*grad.shape, seed=1).to(grad.dtype).requires_grad_()
    out = hook(x, at, **arguments)
    assert torch.equal(out, x)
    out.backward(grad)
    assert x.grad is not None
    assert x.grad.dtype == grad.dtype
    return x.grad


GRAD = numbers(2, 3, 4)
ANALYTIC: list[tuple[Any, dict[str, Any], Callable[[Tensor], Tensor]]] = [
    (backward.gradient_scale, {"factor": -0.5}, lambda g: -0.5 * g),
    (backward.gradient_clip, {"norm": 0.25}, lambda g: 0.25 * g / g.square().sum().sqrt()),
    (backward.gradient_clip, {"norm": 1e9}, lambda g: g),
    (backward.gradient_sign, {}, lambda g: g / g.abs() * g.abs().sum(-1, keepdim=True) / 4),
    (backward.gradient_noise, {"size": 0.0}, lambda g: g),
]


@pytest.mark.parametrize(("hook", "arguments", "analytic"), ANALYTIC)
def test_a_gradient_is_changed_as_its_formula_says(
    at: At, hook: Any, arguments: dict[str, Any], analytic: Callable[[Tensor], Tensor]
) -> None:
    torch.testing.assert_close(through(hook, at, GRAD, **arguments), analytic(GRAD), rtol=1e-12, atol=0)
    half = through(hook, at, GRAD.bfloat16(), **arguments)
    torch.testing.assert_close(half.double(), analytic(GRAD), rtol=0.02, atol=0)


def test_a_gradient_is_changed_where_the_config_selects_and_as_far_as_the_ramp_is(at: At) -> None:
    chosen = dataclasses.replace(at, select=Select(positions=(-1,)), strength=0.25)
    wanted = GRAD.clone()
    wanted[:, -1] *= 0.25  # 3/4 as it was, 1/4 reversed twofold
    torch.testing.assert_close(through(backward.gradient_scale, chosen, GRAD, factor=-2.0), wanted)


@pytest.mark.parametrize("hook", ["gradient_scale", "gradient_clip", "gradient_noise", "straight_through"])
def test_what_changes_nothing_has_the_gradient_that_differences_show(at: At, hook: str) -> None:
    arguments = {"gradient_scale": {"factor": 1.0}, "gradient_clip": {"norm": 1e9}, "gradient_noise": {"size": 0.0}}
    function, given = getattr(backward, hook), arguments.get(hook, {})
    nothing = dataclasses.replace(at, select=Select(channels=())) if hook == "straight_through" else at
    assert gradcheck(lambda x: function(x.tanh(), nothing, **given).square(), numbers(2, 3, 4).requires_grad_())


def test_noise_has_the_size_that_the_step_says_and_is_the_same_for_the_same_place(at: At) -> None:
    grad = numbers(40, 50, 20)
    noise = through(backward.gradient_noise, at, grad, size=0.5) - grad
    rms = float(grad.square().mean().sqrt())
    assert float(noise.std()) == pytest.approx(0.5 * rms / 4**0.275, rel=0.02)
    assert torch.equal(through(backward.gradient_noise, at, grad, size=0.5) - grad, noise)
    for other in ({"seed": 8}, {"step": 4}, {"point": "embed.out"}, {"number": 1}):
        drawn = through(backward.gradient_noise, dataclasses.replace(at, **other), grad, size=0.5) - grad  # type: ignore[arg-type]
        assert float((drawn * noise).mean()) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_rounded_numbers_have_few_values_and_let_the_gradient_through(at: At, bits: int) -> None:
    x = numbers(5, 64).requires_grad_()
    out = backward.straight_through(x, at, bits=bits)
    assert all(len(row.unique()) <= max(2, 2**bits - 1) for row in out)
    if bits > 1:
        step = x.detach().abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert bool(((out - x).abs() <= 0.5001 * step).all())
    (out * numbers(5, 64, seed=2)).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, numbers(5, 64, seed=2))


def test_rows_of_zeros_stay_so(at: At) -> None:
    zeros = torch.zeros(2, 3, 4)
    for bits in (1, 4):
        assert torch.equal(backward.straight_through(zeros, at, bits=bits), zeros)
    for hook, arguments, _ in ANALYTIC:
        assert torch.equal(through(hook, at, zeros, **arguments), zeros)


@pytest.mark.parametrize(
    ("hook", "arguments"),
    [("gradient_clip", {"norm": 0.0}), ("gradient_noise", {"size": -1.0}), ("straight_through", {"bits": 0})],
)
def test_arguments_without_a_meaning_are_refused(at: At, hook: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(KiaraError):
        getattr(backward, hook)(GRAD, at, **arguments)
