"""The settings of the model: what fixes its weights' shapes and what it computes.

In: nothing. Out: `ModelConfig`, a section of schema.py's `Config`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from kiara_cli.config.section import DERIVED, Section, derived, knob
from kiara_cli.errors import KiaraError


@dataclass(frozen=True)
class ModelConfig(Section):
    section: ClassVar[str] = "model"

    vocab_size: int | None = knob(None, low=1)
    context_length: int = knob(512, low=2)
    emb_dim: int = knob(128, low=1)
    n_heads: int = knob(4, low=1)
    n_kv_heads: int = derived(low=1)
    head_dim: int = derived(low=1)
    n_layers: int = knob(4, low=1)
    hidden_dim: int = derived(low=1)
    drop_rate: float = knob(0.0, low=0, high=1)
    positions: Literal["rotary", "learned", "sinusoidal"] = "rotary"
    rope_theta: float = knob(10_000.0, above=0)
    rope_scaling: Literal["none", "linear", "llama3", "yarn"] = "none"
    rope_factor: float = knob(1.0, low=1)
    rope_original_context: int | None = knob(None, low=1)
    rope_low_freq: float = knob(1.0, above=0)
    rope_high_freq: float = knob(4.0, above=0)
    rotary_share: float = knob(1.0, above=0, high=1)
    norm: Literal["rmsnorm", "rmsnorm_1p", "layernorm"] = "rmsnorm"
    norm_eps: float = derived(above=0)
    feedforward: Literal["swiglu", "geglu", "gelu", "gelu_erf", "relu2"] = "swiglu"
    residual: Literal["sequential", "parallel"] = "sequential"
    scale_embeddings: bool = False
    qk_norm: bool = True
    tied_head: bool = False
    bias: bool = False
    attention_bias: Literal["none", "qkv", "all"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        own_head_dim = bool(self.head_dim)
        if not own_head_dim and self.emb_dim % self.n_heads:
            raise self._wrong_width(f"model.emb_dim={self.emb_dim} is not divisible by model.n_heads={self.n_heads}")
        for name, value in self.derived_values().items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        if self.n_heads % self.n_kv_heads:
            divisors = [d for d in range(1, self.n_heads + 1) if self.n_heads % d == 0]
            nearest = min(divisors, key=lambda d: abs(d - self.n_kv_heads))
            raise KiaraError(
                f"model.n_heads={self.n_heads} is not divisible by model.n_kv_heads={self.n_kv_heads}",
                f"the nearest valid value is model.n_kv_heads={nearest}",
                key="model.n_kv_heads",
            )
        if self.positions == "rotary" and own_head_dim and self.head_dim % 2:
            raise KiaraError(
                f"model.positions=rotary rotates pairs of channels, and model.head_dim={self.head_dim} is odd",
                f"the nearest valid value is model.head_dim={self.head_dim + 1}",
                key="model.head_dim",
            )
        self._check_rotary()
        needs_even = self.head_dim if self.positions == "rotary" else self.emb_dim
        if self.positions != "learned" and needs_even % 2:
            raise self._wrong_width(
                f"model.positions={self.positions} needs pairs of channels, and "
                f"model.emb_dim={self.emb_dim} with model.n_heads={self.n_heads} leaves {needs_even} of them"
            )

    def derived_values(self) -> dict[str, Any]:
        """Return what the derived settings are where they are not given.

        As many key and value heads K as heads (fewer: grouped-query attention); C = D / H channels a head; a hidden
        width of 4 D, or 8/3 D where a gate adds a third matrix; the epsilon of Llama's norms or of GPT-2's.
        """
        return {
            "n_kv_heads": self.n_heads,
            "head_dim": self.emb_dim // self.n_heads,
            "hidden_dim": max(32, round(self.emb_dim * 8 / 3 / 32) * 32) if self.gated else 4 * self.emb_dim,
            "norm_eps": 1e-5 if self.norm == "layernorm" else 1e-6,
        }

    @property
    def gated(self) -> bool:
        """Say whether the feed-forward has a third matrix, whose product gates the first one's."""
        return self.feedforward in ("swiglu", "geglu")

    @property
    def attention_biases(self) -> Literal["none", "qkv", "all"]:
        """Which products of attention have biases."""
        return self.attention_bias or ("all" if self.bias else "none")

    @property
    def rotary_dim(self) -> int:
        """Channels of each head that rotary positions rotate, the first ones."""
        return int(self.head_dim * self.rotary_share)

    def _check_rotary(self) -> None:
        if self.positions == "rotary" and self.rotary_share < 1 and (self.rotary_dim < 2 or self.rotary_dim % 2):
            pairs = max(2, self.rotary_dim // 2 * 2)
            raise KiaraError(
                f"model.rotary_share={self.rotary_share} of model.head_dim={self.head_dim} is {self.rotary_dim} "
                "channels, and they are rotated in pairs",
                f"the nearest valid value is model.rotary_share={pairs / self.head_dim}",
                key="model.rotary_share",
            )
        if self.rope_scaling in ("llama3", "yarn") and self.rope_original_context is None:
            raise KiaraError(
                f"model.rope_scaling={self.rope_scaling} needs the context that the model was trained with first",
                "set model.rope_original_context",
                key="model.rope_original_context",
            )
        if self.rope_high_freq <= self.rope_low_freq:
            raise KiaraError(
                f"model.rope_high_freq={self.rope_high_freq} is not above model.rope_low_freq={self.rope_low_freq}",
                "make the first one larger; usual are 4 and 1",
                key="model.rope_high_freq",
            )

    def replace(self, **changes: Any) -> ModelConfig:
        """Return a copy with changes; derived settings that have the value derived here are derived anew.

        `dataclasses.replace` would keep them as they are.
        """
        follow = {name: DERIVED for name, value in self.derived_values().items() if getattr(self, name) == value}
        return replace(self, **follow | changes)

    def _wrong_width(self, cause: str) -> KiaraError:
        """Propose the nearest emb_dim of whole heads, and of pairs of channels where positions need them."""
        pairs = {"rotary": 2 * self.n_heads, "sinusoidal": math.lcm(2, self.n_heads)}
        nearest = nearest_multiple(self.emb_dim, pairs.get(self.positions, self.n_heads))
        return KiaraError(cause, f"the nearest valid value is model.emb_dim={nearest}", key="model.emb_dim")


def nearest_multiple(value: int, of: int) -> int:
    """Return the positive multiple of `of` closest to `value`."""
    return max(of, round(value / of) * of)
