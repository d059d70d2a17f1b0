"""How a model knows where a token stands: learned, sinusoidal or rotary.

In: positions (T,). Out: vectors added to the token embeddings (learned, sinusoidal), or a rotation of queries and
keys (rotary). Each slot is used in one of the two places; the other one does nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kiara_cli.config.model import ModelConfig


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
        angles = _angles(config.context_length, _frequencies(config.emb_dim, 10_000.0))  # (T, D/2)
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)  # (T, D)
        self.register_buffer("table", table, persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        return self.table[positions]  # (T, D)


class Rotary(nn.Module):
    """Rotate each pair of channels by an angle that grows with the position (Su et al., 2021).

    Channel i is paired with channel i + C/2, as in the Llama classes of transformers. Where only a share of the
    channels is rotated, C counts those.
    """

    table: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        frequencies, size = rotary_frequencies(config)
        angles = _angles(config.context_length, frequencies)  # (T, C/2)
        self.register_buffer("table", torch.stack([angles.cos(), angles.sin()]) * size, persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        return self.table[:, positions]  # (2, T, C/2): cosines, sines


def rotate(x: Tensor, rotary: Tensor | None) -> Tensor:
    """Apply the rotation that `Rotary` returned to queries or keys (B, H, T, C); None leaves them as they are."""
    if rotary is None:
        return x
    cos, sin = rotary.to(x.dtype)
    if 2 * cos.shape[-1] < x.shape[-1]:  # a share of the channels: the others stay as they are
        end = 2 * cos.shape[-1]
        return torch.cat([rotate(x[..., :end], rotary), x[..., end:]], dim=-1)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def rotary_frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """Return radians a position, (C/2,), and what cosines and sines are multiplied with."""
    frequencies = _frequencies(config.rotary_dim, config.rope_theta)
    return SCALINGS[config.rope_scaling](config, frequencies)


def _unscaled(config: ModelConfig, frequencies: Tensor) -> tuple[Tensor, float]:
    return frequencies, 1.0


def _linear(config: ModelConfig, frequencies: Tensor) -> tuple[Tensor, float]:
    """Stretch all alike (Chen et al., 2023)."""
    return frequencies / config.rope_factor, 1.0


def _llama3(config: ModelConfig, frequencies: Tensor) -> tuple[Tensor, float]:
    """Stretch those that turn seldom within the original context (Llama 3.1)."""
    assert config.rope_original_context is not None
    turns = config.rope_original_context * frequencies / (2 * math.pi)
    low, high = config.rope_low_freq, config.rope_high_freq
    share = ((turns - low) / (high - low)).clamp(0, 1)  # of the frequency that stays
    return (1 - share) * frequencies / config.rope_factor + share * frequencies, 1.0


def _yarn(config: ModelConfig, frequencies: Tensor) -> tuple[Tensor, float]:
    """Stretch by a ramp over the channels, and attend a little more sharply (Peng et al., 2023)."""
    channels, context = config.rotary_dim, config.rope_original_context
    assert context is not None

    def channel(turns: float) -> float:  # that makes so many turns within the original context
        return channels * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low, high = max(math.floor(channel(32)), 0), min(math.ceil(channel(1)), channels - 1)
    ramp = ((torch.arange(len(frequencies)) - low) / max(high - low, 0.001)).clamp(0, 1)
    size = 0.1 * math.log(config.rope_factor) + 1.0
    return frequencies / config.rope_factor * ramp + frequencies * (1 - ramp), size


def _frequencies(channels: int, theta: float) -> Tensor:
    """Return theta^(-2i / channels), (channels/2,), in float32."""
    return theta ** (-torch.arange(0, channels, 2, dtype=torch.float32) / channels)


def _angles(length: int, frequencies: Tensor) -> Tensor:
    """Return position × frequency, (length, C/2), in float32."""
    return torch.outer(torch.arange(length, dtype=torch.float32), frequencies)


ADDED = {"learned": Learned, "sinusoidal": Sinusoidal}
ROTATED = {"rotary": Rotary}
SCALINGS = {"none": _unscaled, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
