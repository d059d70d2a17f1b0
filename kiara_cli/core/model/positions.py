"""How a model knows where a token stands: learned, sinusoidal or rotary.

In: positions (T,). Out: vectors added to the token embeddings (learned, sinusoidal), or a rotation of queries and
keys (rotary). Each slot is used in one of the two places; the other one does nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kiara_cli.config.schema import ModelConfig


class Learned(nn.Module):
    """A trained vector for each position (GPT-2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.context_length, config.emb_dim)

    def forward(self, positions: Tensor) -> Tensor:
        out: Tensor = self.table(positions)  # (T, D)
        return out


class Sinusoidal(nn.Module):
    """Fixed sines and cosines of falling frequency (Vaswani et al., 2017)."""

    table: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        angles = _angles(config.context_length, config.emb_dim, 10_000.0)  # (T, D/2)
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)  # (T, D)
        self.register_buffer("table", table, persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        return self.table[positions]  # (T, D)


class Rotary(nn.Module):
    """Turn each pair of channels by an angle that grows with the position (Su et al., 2021).

    Channel i is paired with channel i + C/2, as in the Llama classes of transformers.
    """

    table: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        angles = _angles(config.context_length, config.head_dim, config.rope_theta)  # (T, C/2)
        self.register_buffer("table", torch.stack([angles.cos(), angles.sin()]), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        return self.table[:, positions]  # (2, T, C/2): cosines, sines


def rotate(x: Tensor, rotary: Tensor | None) -> Tensor:
    """Apply the turn that `Rotary` returned to queries or keys (B, H, T, C); None leaves them as they are."""
    if rotary is None:
        return x
    cos, sin = rotary.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def _angles(length: int, channels: int, theta: float) -> Tensor:
    """Return position × frequency, (length, channels/2), in float32.

    On the CPU whatever torch's default device is: no checkpoint holds the tables, so that a model built without
    weights (on the meta device) needs them as they are.
    """
    frequencies = theta ** (-torch.arange(0, channels, 2, dtype=torch.float32, device="cpu") / channels)
    return torch.outer(torch.arange(length, dtype=torch.float32, device="cpu"), frequencies)


ADDED = {"learned": Learned, "sinusoidal": Sinusoidal}
ROTATED = {"rotary": Rotary}
