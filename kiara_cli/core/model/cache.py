"""Keys and values of the positions already read, so that each new token costs one position instead of all.

In: keys and values of new positions, layer by layer. Out: those of all positions so far.

L layers, B rows, K key/value heads, S positions, C head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kiara_cli.config.schema import ModelConfig

LARGEST = 127  # of an int8


class Cache:
    """One block of memory for every layer: keys and values, (L, B, K, S, C) each, S = context length.

    In int8 each position of each head has a scale of its own, its largest value.
    """

    def __init__(self, config: ModelConfig, batch: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (config.n_layers, batch, config.n_kv_heads, config.context_length, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.scales: Tensor | None = None  # (2, L, B, K, S, 1): of keys, of values
        if dtype == torch.int8:
            self.scales = torch.zeros(2, *shape[:-1], 1, device=device)
        self.length = 0  # positions filled, the same in every layer and row between two forward passes

    @property
    def parts(self) -> list[Tensor]:
        """All the memory, each tensor with its rows in dimension 1 and its positions in dimension 3."""
        return [self.keys, self.values, *(self.scales if self.scales is not None else ())]

    @property
    def room(self) -> int:
        """Positions still free."""
        return self.keys.shape[3] - self.length

    def row(self, index: int, length: int) -> Cache:
        """Return one row, of which `length` positions are filled, as a cache of its own on the same memory."""
        out = Cache.__new__(Cache)
        out.keys, out.values = (part[:, index : index + 1] for part in (self.keys, self.values))
        out.scales = None if self.scales is None else self.scales[:, :, index : index + 1]
        out.length = length
        return out

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, K, T, C) of a layer; return all of them so far, (B, K, length + T, C)."""
        end = self.length + keys.shape[2]
        assert end <= self.keys.shape[3], "the engine makes room before it reads on"
        new, all_of_it = slice(self.length, end), slice(0, end)
        if self.scales is None:
            self.keys[layer, :, :, new] = keys
            self.values[layer, :, :, new] = values
            return self.keys[layer, :, :, all_of_it], self.values[layer, :, :, all_of_it]
        out = []
        for memory, scales, fresh in zip((self.keys, self.values), self.scales, (keys, values), strict=True):
            memory[layer, :, :, new], scales[layer, :, :, new] = to_int8(fresh)
            out.append((memory[layer, :, :, all_of_it] * scales[layer, :, :, all_of_it]).to(fresh.dtype))
        return out[0], out[1]

    def advance(self, positions: int) -> None:
        """Count positions as read, once every layer has stored them."""
        self.length += positions

    def clear(self) -> None:
        self.length = 0


def to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (…, C) as int8, and what each of its vectors must be multiplied with to get it back, (…, 1)."""
    x = x.float()
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / LARGEST
    return (x / scale).round().to(torch.int8), scale
