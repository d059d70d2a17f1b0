"""Causal self-attention: each position looks back at those before it.

In and out: (B, T, D). `attend_one_head` writes the idea out step by step; `Attention` does the same for all heads
at once through the fastest kernel at hand, and a test shows that they agree.

B batch, T new positions, S all positions, D width, H heads, K key/value heads, C head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kiara_cli.config.schema import ModelConfig
from kiara_cli.core.model.cache import Cache
from kiara_cli.core.model.feedforward import make_norm
from kiara_cli.core.model.positions import rotate

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]


def attend_one_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend with one head, in the plainest form. q (T, C); k, v (S, C); returns (T, C).

    The T queries belong to the last T of the S positions.
    """
    T, S = len(q), len(k)
    scores = q @ k.T / math.sqrt(q.shape[1])  # (T, S): how well each query matches each key
    future = torch.arange(S)[None, :] > torch.arange(S - T, S)[:, None]  # a position must not look ahead
    scores = scores.masked_fill(future, float("-inf"))
    weights = scores.exp() / scores.exp().sum(dim=1, keepdim=True)  # each row adds up to 1
    return weights @ v  # (T, C): the mix of values each query asked for


def attend_all_heads(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, drop_rate: float) -> Tensor:
    """Attend with every head through torch's fused kernel. q (B, H, T, C); k, v (B, H, S, C).

    `visible` (B, 1, T, S) says what each position may look at; None: all that is not ahead of it.
    """
    T, S = q.shape[2], k.shape[2]
    if visible is not None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=drop_rate)
    if T in (1, S):  # one query sees everything; T = S is the plain causal triangle
        return F.scaled_dot_product_attention(q, k, v, dropout_p=drop_rate, is_causal=T == S and T > 1)
    past = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=past, dropout_p=drop_rate)


class Attention(nn.Module):
    """Multi-head attention, with fewer key and value heads than queries where the config says so.

    `attend` is a slot: anything with the signature of `attend_all_heads` may take its place.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.H, self.K, self.C = config.n_heads, config.kv_heads, config.head_dim
        self.qkv = nn.Linear(config.emb_dim, (self.H + 2 * self.K) * self.C, bias=config.bias)
        self.q_norm = make_norm(config, self.C) if config.qk_norm else nn.Identity()
        self.k_norm = make_norm(config, self.C) if config.qk_norm else nn.Identity()
        self.out = nn.Linear(self.H * self.C, config.emb_dim, bias=config.bias)
        self.drop_rate = config.drop_rate
        self.attend: Attend = attend_all_heads
        self.queries, self.keys, self.values, self.heads = (nn.Identity() for _ in range(4))  # points for hooks

    def forward(self, x: Tensor, turn: Tensor | None, cache: Cache | None, visible: Tensor | None = None) -> Tensor:
        B, T, _ = x.shape
        heads = self.qkv(x).view(B, T, self.H + 2 * self.K, self.C).transpose(1, 2)  # (B, H + 2K, T, C)
        q, k, v = heads.split([self.H, self.K, self.K], dim=1)
        q = self.queries(rotate(self.q_norm(q), turn))  # (B, H, T, C)
        k = self.keys(rotate(self.k_norm(k), turn))  # (B, K, T, C)
        v = self.values(v)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)  # (B, K, S, C)
        if self.K != self.H:  # each key and value head serves H/K queries
            k, v = (z.repeat_interleave(self.H // self.K, dim=1) for z in (k, v))
        y = self.attend(q, k.to(q.dtype), v.to(q.dtype), visible, self.drop_rate if self.training else 0.0)
        y = self.heads(y).transpose(1, 2).reshape(B, T, self.H * self.C)
        out: Tensor = self.out(y)
        return out
