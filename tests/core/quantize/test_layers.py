from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from kiara_cli.core.quantize import layers
from kiara_cli.core.quantize.layers import FEW, QuantizedEmbedding, QuantizedLinear, pack
from kiara_cli.core.quantize.rounding import Small, round_to_nearest

SIZES = [(16, 32), (48, 64), (80, 352), (7, 32), (100, 96), (64, 6)]


def small_layer(bits: int, rows: int, columns: int, bias: bool) -> tuple[QuantizedLinear, Small]:
    group = columns if bits == 8 else next(size for size in (32, 16, 6, 2) if columns % size == 0)
    full = nn.Linear(columns, rows, bias=bias)
    small = round_to_nearest(full.weight.detach(), bits, group)
    layer = QuantizedLinear(bits, full, group)
    layer.fill(small)
    return layer, small


@pytest.mark.parametrize(
    ("bits", "size", "bias", "packed"), list(itertools.product([8, 4], SIZES, [False, True], [False, True]))
)
@torch.no_grad()
def test_products_agree_with_the_full_matrix_for_all_shapes(
    bits: int, size: tuple[int, int], bias: bool, packed: bool
) -> None:
    layer, small = small_layer(bits, *size, bias)
    if packed:
        pack(layer)
    for shape in [(1,), (FEW,), (FEW + 1,), (2, 3)]:
        x = torch.randn(*shape, size[1])
        expected = nn.functional.linear(x, small.full(), layer.bias)
        assert layer(x).shape == expected.shape
        assert torch.allclose(layer(x), expected, rtol=1e-4, atol=1e-4)
        assert torch.allclose(layer.weight, small.full())


@pytest.mark.parametrize("bits", [8, 4])
@torch.no_grad()
def test_in_bf16_products_agree_to_its_precision(bits: int) -> None:
    layer, small = small_layer(bits, 64, 128, False)
    layer.to(torch.bfloat16)
    assert layer.scales.dtype == torch.bfloat16
    pack(layer)
    for rows in (1, FEW + 1):
        x = torch.randn(rows, 128)
        found = layer(x.bfloat16())
        assert found.dtype == torch.bfloat16
        expected = x @ small.full().T
        assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_packed_product_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, small = small_layer(4, 64, 64, False)
    assert pack(layer)
    right = layers.by_codes
    monkeypatch.setattr(layers, "by_codes", lambda rows, packed: -right(rows, packed))
    assert not pack(layer)
    x = torch.randn(1, 64)
    assert torch.allclose(layer(x), x @ small.full().T, atol=1e-4)


def test_shapes_that_torch_has_no_product_for_are_multiplied_in_full() -> None:
    layer, small = small_layer(4, 7, 32, False)  # 7 rows are no multiple of 16
    assert not pack(layer)
    x = torch.randn(1, 32)
    assert torch.allclose(layer(x), x @ small.full().T, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_an_embedding_looks_rows_up(bits: int) -> None:
    weight = torch.randn(10, 32)
    small = round_to_nearest(weight, bits, 32)
    embedding = QuantizedEmbedding(bits, 10, 32, 32)
    embedding.fill(small)
    ids = torch.tensor([[3, 3], [9, 0]])
    assert torch.equal(embedding(ids), small.full()[ids])
    assert embedding.to(torch.bfloat16)(ids).dtype == torch.bfloat16
