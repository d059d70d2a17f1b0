from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kiara_cli.core.quantize.apply import best_of
from kiara_cli.core.quantize.gptq import gptq, objective, refit
from kiara_cli.core.quantize.rounding import fit_scales, round_to_nearest, to_nearest


def inputs(kind: str, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Make inputs whose columns go together in some way."""
    x = torch.randn(rows, columns, generator=generator)
    if kind == "correlated":
        x = x @ torch.randn(columns, columns, generator=generator)
    elif kind == "few":
        x = x[:3]  # of lower rank than there are columns
    elif kind == "silent":
        x[:, ::2] = 0
    elif kind == "loud":
        x[:, 0] *= 1000
    return x


@settings(max_examples=40)
@given(
    st.sampled_from(["plain", "correlated", "few", "silent", "loud"]),
    st.integers(1, 8),
    st.sampled_from([(32, 32), (64, 32), (32, 8), (6, 2)]),
    st.sampled_from([8, 4]),
    st.integers(0, 9999),
)
def test_no_row_is_ever_worse_than_round_to_nearest_on_the_layers_own_objective(
    kind: str, rows: int, shape: tuple[int, int], bits: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    columns, group = shape if bits == 4 else (shape[0], shape[0])
    weight = torch.randn(rows, columns, generator=generator)
    x = inputs(kind, 50, columns, generator)
    hessian = x.T @ x
    plain = round_to_nearest(weight, bits, group)
    with_same_scales = gptq(weight, plain.scales, bits, hessian)
    best = best_of(weight, bits, group, hessian, plain)
    nearest = objective(weight, plain.full(), hessian)
    for found in (with_same_scales, best):
        assert bool((objective(weight, found.full(), hessian) <= nearest).all())
        assert bool(found.scales.isfinite().all())


def test_the_objective_is_the_squared_change_of_the_products() -> None:
    weight, x = torch.randn(5, 16), torch.randn(40, 16)
    rounded = round_to_nearest(weight, 4, 16).full()
    change = (x @ weight.T - x @ rounded.T).square().sum(dim=0)
    assert torch.allclose(objective(weight, rounded, x.T @ x).float(), change, rtol=1e-4)


def test_inputs_that_go_together_are_made_up_for() -> None:
    x = inputs("correlated", 500, 64, torch.Generator().manual_seed(0))
    weight, hessian = torch.randn(32, 64), x.T @ x
    plain = round_to_nearest(weight, 4, 32)
    found = best_of(weight, 4, 32, hessian, plain)
    assert objective(weight, found.full(), hessian).sum() < 0.5 * objective(weight, plain.full(), hessian).sum()


def test_inputs_that_have_nothing_in_common_leave_nothing_to_do() -> None:
    weight = torch.randn(8, 32)
    scales = fit_scales(weight, 8, 32)
    assert torch.equal(gptq(weight, scales, 8, torch.eye(32)).codes, to_nearest(weight, scales, 8).codes)


@pytest.mark.parametrize("rows", [3, 300])
def test_refitted_scales_are_the_best_for_the_codes(rows: int) -> None:
    x = inputs("correlated", 200, 64, torch.Generator().manual_seed(0))
    weight, hessian = torch.randn(rows, 64), x.T @ x
    small = round_to_nearest(weight, 4, 16)
    scales = refit(weight, small, hessian).float()
    codes = small.codes.float().view(rows, 4, 16)

    def error(scales: Tensor) -> Tensor:
        return objective(weight, (codes * scales[:, :, None]).view(rows, 64), hessian)

    assert bool((error(scales) < error(small.scales.float())).all())
    for change in (0.97, 1.03):
        moved = scales.clone()
        moved[:, 1] *= change
        assert float((error(moved) > error(scales)).float().mean()) > 0.9  # bfloat16 moves some past the best
