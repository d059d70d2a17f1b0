"""Keys and values of the positions a model has already read, so that the next token costs one position.

In: the keys and values of new positions. Out: those of all positions so far. Memory is taken once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kiara_cli.config.schema import ModelConfig


class Cache:
    """One block of memory for every layer: keys and values, (L, B, K, S, C) each, S = context length."""

    def __init__(self, config: ModelConfig, batch: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (config.n_layers, batch, config.kv_heads, config.context_length, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0  # positions filled, the same in every layer between two forward passes

    @property
    def room(self) -> int:
        """Positions still free."""
        return self.keys.shape[3] - self.length

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, K, T, C) of a layer; return all of them so far, (B, K, length + T, C)."""
        end = self.length + keys.shape[2]
        assert end <= self.keys.shape[3], "the engine makes room before it reads on"
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, positions: int) -> None:
        """Count positions as read, once every layer has stored them."""
        self.length += positions

    def clear(self) -> None:
        self.length = 0
