"""Causal self-attention: each position attends to those before it.

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

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.model.cache import Cache
from kiara_cli.core.model.feedforward import make_norm
from kiara_cli.core.model.points import OWN, Point, hooked, is_own
from kiara_cli.core.model.positions import rotate
from kiara_cli.errors import KiaraError

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]

SHORT = 1024  # positions whose scores are worth keeping in memory (a guess; measured at 64 and 256)


def attend_one_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend with one head, in the plainest form. q (T, C); k, v (S, C); returns (T, C).

    The T queries belong to the last T of the S positions.
    """
    T, S = len(q), len(k)
    scores = q @ k.T / math.sqrt(q.shape[1])  # (T, S): how well each query matches each key
    future = torch.arange(S)[None, :] > torch.arange(S - T, S)[:, None]  # a position must not look ahead
    scores = scores.masked_fill(future, float("-inf"))
    weights = scores.exp() / scores.exp().sum(dim=1, keepdim=True)  # each row adds up to 1
    return weights @ v  # (T, C): the values, weighted


def attend_all_heads(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, drop_rate: float) -> Tensor:
    """Attend with every head through torch's fused kernel. q (B, H, T, C); k, v (B, H, S, C).

    `visible` (B, 1, T, S) holds 0 for what a position may look at, -inf elsewhere; None: all not ahead of it.
    """
    T, S = q.shape[2], k.shape[2]
    if visible is not None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=drop_rate)
    if T in (1, S):  # one query sees everything; T = S is the plain causal triangle
        return F.scaled_dot_product_attention(q, k, v, dropout_p=drop_rate, is_causal=T == S and T > 1)
    past = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=past, dropout_p=drop_rate)


def attend_by_products(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor | None,
    drop_rate: float,
    scores_point: nn.Module | None = None,
    pattern_point: nn.Module | None = None,
) -> Tensor:
    """Attend as `attend_all_heads` does, by two plain products with all the scores in memory between them.

    The points, if given, see the masked scores and the pattern, both (B, H, T, S).
    """
    T, S = q.shape[2], k.shape[2]
    if visible is None:
        visible = torch.full((T, S), float("-inf"), dtype=q.dtype, device=q.device).triu_(S - T + 1)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT  # (B, H, T, S)
    scores = scores.masked_fill(~visible, float("-inf")) if visible.dtype == torch.bool else scores.add_(visible)
    pattern = (scores if scores_point is None else scores_point(scores)).softmax(dim=-1)
    return F.dropout(pattern if pattern_point is None else pattern_point(pattern), drop_rate) @ v  # (B, H, T, C)


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, drop_rate: float) -> Tensor:
    """Attend in the way that is faster here.

    torch's fused kernel, but on a CPU that learns in bf16 at short contexts: its backward pass leaves the chip's
    bf16 products unused there, and plain products take half its time (64 × 256 × 32: 13 against 34 ms).
    """
    return (attend_by_products if is_short(q, k) else attend_all_heads)(q, k, v, visible, drop_rate)


OWN.add(attend)


def is_short(q: Tensor, k: Tensor) -> bool:
    """Say whether plain products are the faster way."""
    return q.requires_grad and q.dtype == torch.bfloat16 and q.device.type == "cpu" and k.shape[2] <= SHORT


def segment_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what each position may look at, (B, 1, T, T): 0 for itself and what is before it in its segment, -inf
    elsewhere. segments (B, T)."""
    T = segments.shape[1]
    hidden = segments[:, None, :, None] != segments[:, None, None, :]
    hidden = hidden | torch.ones(T, T, dtype=torch.bool, device=segments.device).triu(1)
    return torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, float("-inf"))


class Attention(nn.Module):
    """Multi-head attention, with fewer key and value heads than queries where the config says so.

    `attend` is a slot: anything with the signature of `attend_all_heads` may take its place. While `scores` or
    `pattern` has a hook, plain products do its work: the result is the same but for rounding.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.H, self.K, self.C = config.n_heads, config.n_kv_heads, config.head_dim
        self.q, self.k, self.v, self.rot_q, self.rot_k = (Point() for _ in range(5))
        self.scores, self.pattern, self.heads = (Point() for _ in range(3))
        self.qkv = nn.Linear(config.emb_dim, (self.H + 2 * self.K) * self.C, bias=config.attention_biases != "none")
        self.q_norm = make_norm(config, self.C) if config.qk_norm else nn.Identity()
        self.k_norm = make_norm(config, self.C) if config.qk_norm else nn.Identity()
        self.out = nn.Linear(self.H * self.C, config.emb_dim, bias=config.attention_biases == "all")
        self.drop_rate = config.drop_rate
        self.attend: Attend = attend

    def forward(self, x: Tensor, rotary: Tensor | None, cache: Cache | None, visible: Tensor | None = None) -> Tensor:
        B, T, _ = x.shape
        q, k, v = self.place(self.qkv(x), rotary)  # (B, H, T, C), (B, K, T, C) twice
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)  # (B, K, S, C)
        if self.K != self.H:  # each key and value head serves H/K queries
            k, v = (z.repeat_interleave(self.H // self.K, dim=1) for z in (k, v))
        attend = self._attend_hooked if hooked(self.scores, self.pattern) else self.attend
        y = self.heads(attend(q, k.to(q.dtype), v.to(q.dtype), visible, self.drop_rate if self.training else 0.0))
        y = y.transpose(1, 2).reshape(B, T, self.H * self.C)
        out: Tensor = self.out(y)
        return out

    def place(self, qkv: Tensor, rotary: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Part the product (B, T, (H + 2K) C) into heads; normalise queries and keys, and rotate them."""
        q, k, v = self.part(qkv)
        return self.rot_q(rotate(self.q_norm(q), rotary)), self.rot_k(rotate(self.k_norm(k), rotary)), v

    def part(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Part the product (B, T, (H + 2K) C) into queries (B, H, T, C), keys and values (B, K, T, C)."""
        B, T, _ = qkv.shape
        heads = qkv.view(B, T, self.H + 2 * self.K, self.C).transpose(1, 2)  # (B, H + 2K, T, C)
        q, k, v = heads.split([self.H, self.K, self.K], dim=1)  # type: ignore[no-untyped-call]
        return self.q(q), self.k(k), self.v(v)

    def _attend_hooked(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, drop_rate: float) -> Tensor:
        if not is_own(self.attend):
            cause = f"the attention of layer {self.layer} was exchanged: it passes no scores and no pattern"
            raise KiaraError(cause, f"hook another point, such as blocks.{self.layer}.attention.heads")
        return attend_by_products(q, k, v, visible, drop_rate, self.scores, self.pattern)
