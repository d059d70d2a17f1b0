"""Tiny models of several architectures, with weights large enough to matter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.model.transformer import Transformer

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "default": {},
    "gpt2": {"positions": "learned", "norm": "layernorm", "feedforward": "gelu", "bias": True, "tied_head": True,
             "qk_norm": False},
    "grouped relu2": {"n_kv_heads": 2, "feedforward": "relu2", "attention_bias": "qkv"},
    "parallel": {"residual": "parallel", "norm": "layernorm", "bias": True, "feedforward": "gelu_erf",
                 "rotary_share": 0.5, "qk_norm": False},
    "gemma": {"norm": "rmsnorm_1p", "feedforward": "geglu", "scale_embeddings": True, "tied_head": True,
              "n_kv_heads": 1, "head_dim": 16, "qk_norm": False},
}  # fmt: skip
IDS = [5, 9, 3, 7, 5, 9, 3, 11, 5, 9]


def make(changes: dict[str, Any]) -> Transformer:
    torch.manual_seed(0)
    fixed = {"vocab_size": 64, "context_length": 16, "emb_dim": 32, "n_heads": 4, "n_layers": 2}
    net = Transformer(ModelConfig(**fixed | changes)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    return net


@pytest.fixture(params=ARCHITECTURES.values(), ids=ARCHITECTURES)
def net(request: pytest.FixtureRequest) -> Transformer:
    """A tiny model of each architecture."""
    return make(request.param)


@pytest.fixture
def plain() -> Transformer:
    """A tiny model of the default architecture."""
    return make({})


@pytest.fixture
def ids() -> list[int]:
    """Ids in which some come again, with what followed them."""
    return list(IDS)
