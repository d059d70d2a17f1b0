"""What a model can do before its first step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.model.transformer import Transformer


def config(**options: Any) -> ModelConfig:
    sizes = {"vocab_size": 512, "emb_dim": 128, "n_heads": 4, "n_layers": 3, "context_length": 256}
    return ModelConfig(**(sizes | {"tied_head": False} | options))


@torch.no_grad()
def looks(model: Transformer, length: int = 200) -> Tensor:
    """How much the heads of the first block look at each position, (H, T, T)."""
    seen: dict[str, Tensor] = {}
    attention = model.blocks[0].attention
    attention.rot_q.register_forward_hook(lambda _, __, out: seen.update(q=out[0]))  # type: ignore[operator, union-attr]
    attention.rot_k.register_forward_hook(lambda _, __, out: seen.update(k=out[0]))  # type: ignore[operator, union-attr]
    model(torch.randint(0, 512, (1, length)))
    q, k = seen["q"], seen["k"].repeat_interleave(len(seen["q"]) // len(seen["k"]), dim=0)  # (H, T, C)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    ahead = torch.ones(length, length, dtype=torch.bool).triu(1)
    return scores.masked_fill(ahead, float("-inf")).softmax(dim=-1)


@pytest.mark.parametrize("options", [{}, {"norm": "layernorm"}, {"rope_theta": 1e6}, {"head_dim": 64}])
def test_three_heads_of_the_first_block_look_one_two_and_three_tokens_back(options: dict[str, Any]) -> None:
    seen = looks(Transformer(config(**options)))
    for head, back in enumerate((1, 2, 3)):
        assert seen[head].diagonal(-back)[50:].mean() > 0.5, (head, back)
    assert seen[3].max(dim=-1).values[50:].mean() < 0.5, "the last head is free"


@pytest.mark.parametrize("options", [{"n_kv_heads": 2}, {"n_heads": 2}])
def test_one_group_of_heads_always_stays_free(options: dict[str, Any]) -> None:
    seen = looks(Transformer(config(**options)))
    assert seen[0].diagonal(-1)[50:].mean() > 0.5
    assert all(head.diagonal(-back)[50:].mean() < 0.1 for head in seen[1:] for back in (1, 2, 3))


@pytest.mark.parametrize(
    "options", [{"n_kv_heads": 1}, {"n_heads": 1}, {"positions": "learned"}, {"tied_head": True}]
)
def test_where_no_head_can_be_spared_or_turned_none_looks_back(options: dict[str, Any]) -> None:
    seen = looks(Transformer(config(**options)))
    assert all(head.diagonal(-1)[50:].mean() < 0.1 for head in seen)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"n_kv_heads": 2}, {"head_dim": 16}])
def test_a_head_that_sees_a_word_makes_that_word_likelier(options: dict[str, Any]) -> None:
    model = Transformer(config(**options))
    attention = model.blocks[1].attention
    H, K, C = attention.H, attention.K, attention.C  # type: ignore[union-attr]
    words = model.tokens.weight  # (V, D)
    rows = attention.qkv.weight[(H + K) * C :]  # type: ignore[union-attr, index]
    values = (words @ rows.T).view(512, K, C).repeat_interleave(H // K, dim=1).flatten(1)  # (V, H C)
    scores = values @ attention.out.weight.T @ model.head.weight.T  # type: ignore[union-attr]  # (V, V)
    own, others = scores.diagonal().mean(), (scores.sum() - scores.diagonal().sum()) / (512 * 511)
    assert own > others + 3 * scores.std()
