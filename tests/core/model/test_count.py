"""Arithmetic against real models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.model.attention import Attention
from kiara_cli.core.model.count import count
from kiara_cli.core.model.transformer import Transformer


def test_the_parameter_count_is_that_of_the_real_model(every_model: list[ModelConfig]) -> None:
    for config in every_model:
        real = sum(weight.numel() for weight in Transformer(config).parameters())
        assert count(config).parameters == real, config


def test_embedding_parameters_are_those_no_product_reads(tiny: ModelConfig) -> None:
    assert count(tiny).embedding_parameters == 0  # the tied table is also the head
    assert count(replace(tiny, tied_head=False)).embedding_parameters == 64 * 32
    assert count(replace(tiny, positions="learned")).embedding_parameters == 16 * 32


PARTS = {
    "norm": "norms", "tokens": "token embeddings", "positions": "positions", "attention": "attention",
    "feedforward": "feed-forward", "head": "head",
}  # fmt: skip


def two_products(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, drop_rate: float) -> Tensor:
    """Attention over the full square as two batched products, which every counter of FLOPs understands."""
    return (q @ k.transpose(-1, -2)).tril().softmax(-1) @ v


@pytest.mark.parametrize("feedforward", ["swiglu", "gelu"])
@pytest.mark.parametrize("kv_heads", [None, 2])
def test_forward_flops_are_what_torch_counts(tiny: ModelConfig, feedforward: str, kv_heads: int | None) -> None:
    config = tiny.replace(feedforward=feedforward, n_kv_heads=kv_heads)
    model = Transformer(config)
    for module in model.modules():
        if isinstance(module, Attention):
            module.attend = two_products
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 16, dtype=torch.long))
    D, L, T, V, F = 32, 2, 16, 64, config.hidden_dim
    products = D * (4 + 2 * config.n_kv_heads) * 8 + D * D + (3 if feedforward == "swiglu" else 2) * D * F
    dense = T * (L * (2 * products + 4 * D * T) + 2 * V * D)  # derived by hand, the square counted whole
    assert counter.get_total_flops() == dense
    causal = dense - T * L * 4 * D * T + T * L * 4 * D * (T + 1) / 2  # a position sees (T + 1) / 2 others on average
    assert count(config).forward_flops * T == causal


def test_a_training_step_costs_three_forward_passes(tiny: ModelConfig) -> None:
    assert count(tiny).training_flops == 3 * count(tiny).forward_flops


def test_the_parts_of_the_count_are_those_of_the_real_model(every_model: list[ModelConfig]) -> None:
    for config in every_model:
        model, found = Transformer(config), count(config).parts
        real = dict.fromkeys(found, 0)
        for name, weight in model.named_parameters():
            part = next(part for word, part in PARTS.items() if word in name)
            real[part] += weight.numel()
        assert found == real, config
