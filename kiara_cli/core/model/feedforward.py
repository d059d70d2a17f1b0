"""What a block does to each position alone: GELU, ReLU² or a gate; and the norms.

In and out: (B, T, D).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.model.points import Point


class Plain(nn.Module):
    """Project up, apply the activation, project down.

    GELU in its tanh form (GPT-2) or its exact one (GPT-NeoX), or ReLU squared (Primer, So et al., 2021).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.emb_dim, config.hidden_dim, bias=config.bias)
        self.activation = ACTIVATIONS[config.feedforward]()
        self.hidden = Point()
        self.down = nn.Linear(config.hidden_dim, config.emb_dim, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.hidden(self.activation(self.up(x))))
        return out


class Gated(nn.Module):
    """Project up twice, gate one half by the other, project down (Shazeer, 2020). Both halves are one product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.emb_dim, 2 * config.hidden_dim, bias=config.bias)
        self.hidden = Point()
        self.down = nn.Linear(config.hidden_dim, config.emb_dim, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.hidden(self.gate(self.gate_up(x))))
        return out

    def gate(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class SwiGLU(Gated):
    """Gated by SiLU (Llama)."""

    def gate(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up


class GeGLU(Gated):
    """Gated by GELU in its tanh form (Gemma)."""

    def gate(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.gelu(gate, approximate="tanh") * up


class ReLU2(nn.Module):
    """max(0, x)²."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


class RMSNorm(nn.RMSNorm):
    """torch's, with the weight in the input's precision: under bf16 it would warn and take a slow path."""

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class RMSNorm1p(nn.Module):
    """RMSNorm that multiplies with 1 + weight, in float32 (Gemma). A type of its own: fast paths know it by that."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, 1.0 + self.weight.float(), self.eps).to(x.dtype)


def make_norm(config: ModelConfig, width: int) -> nn.Module:
    """Make the norm the config names."""
    return NORMS[config.norm](config, width)


NORMS: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "rmsnorm": lambda config, width: RMSNorm(width, eps=config.norm_eps),
    "rmsnorm_1p": lambda config, width: RMSNorm1p(width, eps=config.norm_eps),
    "layernorm": lambda config, width: nn.LayerNorm(width, eps=config.norm_eps, bias=config.bias),
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": lambda: nn.GELU(approximate="tanh"),
    "gelu_erf": nn.GELU,
    "relu2": ReLU2,
}
FEEDFORWARDS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "gelu": Plain,
    "gelu_erf": Plain,
    "relu2": Plain,
    "swiglu": SwiGLU,
    "geglu": GeGLU,
}
