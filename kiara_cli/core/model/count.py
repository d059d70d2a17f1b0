"""What a model costs, by arithmetic alone: parameters, floating-point operations, bytes.

In: a model config with its vocabulary. Out: `Count`. Tests compare it with real models and hand counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from kiara_cli.config.model import ModelConfig


@dataclass(frozen=True)
class Count:
    """Costs of one model; FLOPs count a multiply and an add as two."""

    parameters: int
    embedding_parameters: int  # token and position tables that no product reads
    forward_flops: int  # per token, at full context, causal attention counted at its mean length
    layer_bytes: int  # per token of a training batch and layer, in float32 (an estimate: see `count`)
    logit_bytes: int  # per position that is scored
    layers: int

    @property
    def training_flops(self) -> int:
        """FLOPs per token of a training step: the backward pass costs twice the forward one."""
        return 3 * self.forward_flops

    def training_bytes(self, tokens: int, scored: int | None = None) -> int:
        """Memory of a training step over `tokens`, of which `scored` at a time (None: all): weights, gradients, two
        moments, activations."""
        activations = self.layers * self.layer_bytes * tokens
        return 16 * self.parameters + activations + self.logit_bytes * min(tokens, scored or tokens)

    def evaluation_bytes(self, tokens: int, scored: int) -> int:
        """Memory of an evaluation during training over `tokens` at once, `scored` of them at a time: weights, two
        moments, the activations of one layer."""
        return 12 * self.parameters + self.layer_bytes * tokens + self.logit_bytes * min(tokens, scored)


def count(config: ModelConfig) -> Count:
    """Count a model without building it.

    Activations are what autograd keeps in eager mode: per layer about 8 rows of D, the heads, and 3 (plain) or 5
    (gated) rows of the hidden width; plus three rows of logits.
    """
    assert config.vocab_size is not None
    D, L, V, T = config.emb_dim, config.n_layers, config.vocab_size, config.context_length
    qkv = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
    gates = 2 if config.gated else 1
    heads = config.n_heads * config.head_dim
    matrices = D * qkv + heads * D + (gates + 1) * D * config.hidden_dim
    biases = {"none": 0, "qkv": qkv, "all": qkv + D}[config.attention_biases]
    biases += (gates * config.hidden_dim + D) * config.bias
    norm = 2 if config.norm == "layernorm" and config.bias else 1
    norms = 2 * D * norm + (2 * config.head_dim * norm if config.qk_norm else 0)
    tables = V * D + (T * D if config.positions == "learned" else 0)
    head = 0 if config.tied_head else V * D
    parameters = tables + head + L * (matrices + biases + norms) + D * norm
    attention = 2 * 2 * heads * (T + 1) / 2  # scores and mixing, over (T + 1) / 2 positions on average
    forward = L * (2 * matrices + attention) + 2 * V * D
    rows = 8 * D + 2 * qkv + (5 if gates == 2 else 3) * config.hidden_dim
    unread = tables if not config.tied_head else tables - V * D
    return Count(parameters, unread, int(forward), layer_bytes=4 * rows, logit_bytes=4 * 3 * V, layers=L)
