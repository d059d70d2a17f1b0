from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.quantize.nibbles import from_nibbles, to_nibbles
from kiara_cli.core.quantize.rounding import HIGHEST, LOWEST, fit_scales, round_to_nearest, to_nearest

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 5), st.sampled_from([2, 6, 16, 32]), st.integers(0, 999))


@given(SHAPES)
def test_nibbles_come_back_as_they_were(shape: tuple[int, int, int, int]) -> None:
    rows, groups, group, seed = shape
    codes = torch.randint(-8, 8, (rows, groups * group), generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    pairs = to_nibbles(codes)
    assert pairs.shape == (rows, groups * group // 2)
    assert torch.equal(from_nibbles(pairs), codes)


def test_the_even_column_is_the_low_half_of_a_byte() -> None:
    assert to_nibbles(torch.tensor([[-8, 7, 0, 1]], dtype=torch.int8)).tolist() == [[0xF0, 0x98]]


@given(SHAPES, st.sampled_from([8, 4]))
def test_no_number_is_further_from_its_code_than_half_a_step_unless_it_was_cut_off(
    shape: tuple[int, int, int, int], bits: int
) -> None:
    rows, groups, group, seed = shape
    weight = torch.randn(rows, groups * group, generator=torch.Generator().manual_seed(seed))
    small = round_to_nearest(weight, bits, group)
    assert small.codes.dtype == torch.int8
    assert small.scales.dtype == torch.bfloat16
    assert LOWEST[bits] <= int(small.codes.min())
    assert int(small.codes.max()) <= HIGHEST[bits]
    step = small.scales.float().abs().repeat_interleave(group, dim=1)
    cut = (small.codes == LOWEST[bits]) | (small.codes == HIGHEST[bits])
    assert bool(((weight - small.full()).abs() <= step / 2 * 1.0001)[~cut].all())


@pytest.mark.parametrize("bits", [8, 4])
def test_what_can_be_stored_exactly_is(bits: int) -> None:
    codes = torch.tensor([[LOWEST[bits], 0, 1, HIGHEST[bits], *[3] * 28]]).float()
    weight = codes * 0.25
    assert torch.equal(round_to_nearest(weight, bits, 32).full(), weight)


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_stay_zeros(bits: int) -> None:
    small = round_to_nearest(torch.zeros(3, 32), bits, 32)
    assert torch.equal(small.full(), torch.zeros(3, 32))
    assert bool(small.scales.isfinite().all())


def test_fitted_scales_leave_less_error_than_those_of_the_extremes() -> None:
    weight = torch.randn(64, 128)
    parts = weight.view(64, 4, 32)
    extreme = (parts.abs().amax(dim=2) / 7).bfloat16()
    plain = (weight - to_nearest(weight, extreme, 4).full()).square().sum()
    assert (weight - round_to_nearest(weight, 4, 32).full()).square().sum() < 0.95 * plain


def test_columns_that_matter_more_are_kept_better() -> None:
    weight = torch.randn(64, 32)
    importance = torch.ones(32)
    importance[:4] = 100.0
    even, uneven = (to_nearest(weight, fit_scales(weight, 4, 32, worth), 4).full() for worth in (None, importance))
    assert (weight - uneven)[:, :4].square().sum() < (weight - even)[:, :4].square().sum()
