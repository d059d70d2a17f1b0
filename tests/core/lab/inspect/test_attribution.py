"""Contributions to a logit: they add up, and each is what its part alone makes of it."""

from __future__ import annotations

import pytest
import torch

from kiara_cli.core.lab.inspect.attribution import attribute, direction, norm_bias, output_weights
from kiara_cli.core.lab.inspect.trace import changed, trace
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize.apply import quantize
from kiara_cli.core.quantize.scheme import Scheme


def test_parts_add_up_to_the_logit(net: Transformer, ids: list[int]) -> None:
    seen = trace(net, ids)
    with torch.no_grad():
        logits = net(torch.tensor([ids]))[0]
    for position, token in ((len(ids) - 1, 3), (4, 9)):
        parts = attribute(net, seen, position, token)
        assert parts.logit == pytest.approx(float(logits[position, token]), abs=1e-4)
        assert sum(parts.named().values()) == pytest.approx(parts.logit, abs=1e-3)
        assert torch.equal(parts.sources[:, :, position + 1 :], torch.zeros_like(parts.sources[:, :, position + 1 :]))
        torch.testing.assert_close(parts.sources.sum(dim=2), parts.heads)
        biased = net.blocks[0].attention.out.bias is not None
        assert bool((parts.biases.abs() > 1e-3).any()) == biased  # nothing hides in what is left over
        bias = getattr(net.norm, "bias", None)
        expected = 0.0 if bias is None else float((bias @ net.head.weight[token]).detach())
        assert parts.norm == pytest.approx(expected, abs=1e-3)
        other = attribute(net, seen, position, 7)
        assert (parts - other).logit == pytest.approx(parts.logit - other.logit)
        assert sum((parts - other).named().values()) == pytest.approx(parts.logit - other.logit, abs=2e-3)


@torch.no_grad()
def test_a_head_goes_through_its_columns_and_the_values_of_its_sources(net: Transformer, ids: list[int]) -> None:
    seen, groups = trace(net, ids), net.config.n_heads // net.config.n_kv_heads
    attention, C = net.blocks[1].attention, net.config.head_dim
    parts = attribute(net, seen, 6, 3)
    stream, row = seen.at(1, "resid_post")[6], net.head.weight[3]
    for head, weight in enumerate(output_weights(attention)):
        columns = attention.out.weight[:, head * C : head * C + C]
        torch.testing.assert_close(weight, columns.T)
        for source in (0, 4, 6):
            added = columns @ seen.at(1, "attention.v")[head // groups, source]
            added = added * seen.at(1, "attention.pattern")[head, 6, source]
            weights = net.norm.weight + (net.config.norm == "rmsnorm_1p")
            if net.config.norm == "layernorm":
                added, scale = added - added.mean(), (stream.var(correction=0) + net.norm.eps).rsqrt()
            else:
                scale = (stream.square().mean() + net.norm.eps).rsqrt()
            effect = float((added * scale * weights) @ row)
            assert float(parts.sources[1, head, source]) == pytest.approx(effect, abs=1e-4)


@torch.no_grad()
def test_the_direction_of_a_logit_gives_the_norm_and_the_head_for_its_stream(net: Transformer) -> None:
    stream, rows = torch.randn(5, 32), torch.randn(5, 32)
    reads = direction(net.norm, stream, rows)
    expected = (net.norm(stream) * rows).sum(dim=-1)
    found = (stream * reads).sum(dim=-1) + (norm_bias(net.norm, rows) * rows).sum(dim=-1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_parts_add_up_with_a_hook_that_changes_a_head(net: Transformer, ids: list[int]) -> None:
    with changed(net, {"blocks.1.attention.heads": lambda value: value * 3, "blocks.0.resid_post": lambda x: x + 1}):
        seen = trace(net, ids)
        parts = attribute(net, seen, 8, 3)
    assert sum(parts.named().values()) == pytest.approx(parts.logit, abs=3e-3)
    torch.testing.assert_close(parts.sources.sum(dim=2), parts.heads)


def test_parts_of_a_model_with_small_matrices_add_up(plain: Transformer, ids: list[int]) -> None:
    for _ in quantize(plain, Scheme(8, "rtn", 32, 8, 8)):
        pass
    seen = trace(plain, ids)
    parts = attribute(plain, seen, 8, 3)
    assert sum(parts.named().values()) == pytest.approx(parts.logit, abs=1e-3)
    assert not bool((parts.biases.abs() > 1e-3).any())
