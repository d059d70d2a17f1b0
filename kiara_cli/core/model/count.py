"""What a model costs, by arithmetic alone: parameters and floating-point operations.

In: a model config with its vocabulary. Out: `Count`. Tests compare it with real models and hand counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kiara_cli.config.model import ModelConfig


@dataclass(frozen=True)
class Count:
    """Costs of one model; FLOPs count a multiply and an add as two."""

    parts: Mapping[str, int]  # parameters, by what they belong to
    embedding_parameters: int  # token and position tables that no product reads
    forward_flops: int  # per token, at full context, causal attention counted at its mean length

    @property
    def parameters(self) -> int:
        return sum(self.parts.values())

    @property
    def training_flops(self) -> int:
        """FLOPs per token of a training step: the backward pass costs twice the forward one."""
        return 3 * self.forward_flops


def count(config: ModelConfig) -> Count:
    """Count a model without building it."""
    assert config.vocab_size is not None
    D, L, V, T = config.emb_dim, config.n_layers, config.vocab_size, config.context_length
    qkv = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
    gates = 2 if config.gated else 1
    heads = config.n_heads * config.head_dim
    attention = D * qkv + heads * D
    feedforward = (gates + 1) * D * config.hidden_dim
    norm = 2 if config.norm == "layernorm" and config.bias else 1
    norms = 2 * D * norm + (2 * config.head_dim * norm if config.qk_norm else 0)
    parts = {
        "token embeddings": V * D,
        "positions": T * D if config.positions == "learned" else 0,
        "attention": L * (attention + {"none": 0, "qkv": qkv, "all": qkv + D}[config.attention_biases]),
        "feed-forward": L * (feedforward + (gates * config.hidden_dim + D) * config.bias),
        "norms": L * norms + D * norm,
        "head": 0 if config.tied_head else V * D,
    }
    scores = 2 * 2 * heads * (T + 1) / 2  # and mixing, over (T + 1) / 2 positions on average
    forward = L * (2 * (attention + feedforward) + scores) + 2 * V * D
    unread = parts["positions"] + (0 if config.tied_head else V * D)
    return Count(parts, unread, int(forward))
