"""KV cache: keys and values of the positions already read, so that each new token costs one position instead of all.

In: keys and values of new positions, layer by layer. Out: those of all positions so far.

B slots (one a sequence), K key/value heads, S positions allocated, C head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kiara_cli.config.model import ModelConfig

LARGEST = 127  # of an int8


class Cache:
    """Of every layer keys and values, (B, K, S, C) each; in int8 also a scale per position and head, (B, K, S, 1).

    `positions` are allocated at first: the whole context unless said otherwise. `resize` changes that.
    """

    def __init__(
        self, config: ModelConfig, slots: int, device: torch.device, dtype: torch.dtype, positions: int | None = None
    ) -> None:
        shape = (slots, config.n_kv_heads, positions or config.context_length, config.head_dim)
        self.layers = [_parts(shape, device, dtype) for _ in range(config.n_layers)]
        self.length = 0  # positions filled, the same in every layer and slot between two forward passes
        self.moves = 0  # how often the memory has moved: whoever holds addresses looks here

    @property
    def dtype(self) -> torch.dtype:
        return self.layers[0][0].dtype

    @property
    def device(self) -> torch.device:
        return self.layers[0][0].device

    @property
    def slots(self) -> int:
        return self.layers[0][0].shape[0]

    @property
    def capacity(self) -> int:
        """Positions that are allocated for each sequence."""
        return self.layers[0][0].shape[2]

    @property
    def free(self) -> int:
        """Positions allocated and not filled yet."""
        return self.capacity - self.length

    @property
    def bytes(self) -> int:
        return sum(part.numel() * part.element_size() for parts in self.layers for part in parts)

    def slot(self, index: int, length: int) -> Cache:
        """Return one slot, of which `length` positions are filled, as a cache of its own on the same memory."""
        out = Cache.__new__(Cache)
        out.length, out.moves = length, self.moves
        out.layers = [[part[index : index + 1] for part in parts] for parts in self.layers]
        return out

    def resize(self, slots: int, positions: int) -> None:
        """Allocate another number of slots and positions, and keep what is in both.

        One tensor after the other: at no time are there two copies of more than one of them.
        """
        for parts in self.layers:
            for index, old in enumerate(parts):
                new = old.new_zeros(slots, old.shape[1], positions, old.shape[3])
                kept, filled = min(slots, old.shape[0]), min(positions, old.shape[2])
                new[:kept, :, :filled] = old[:kept, :, :filled]
                parts[index] = new
        self.moves += 1

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, K, T, C) of a layer; return all of them so far, (B, K, length + T, C)."""
        end = self.length + keys.shape[2]
        assert end <= self.capacity, "whoever reads reserves positions first"
        new, filled = slice(self.length, end), slice(0, end)
        parts = self.layers[layer]
        if len(parts) == 2:
            for part, fresh in zip(parts, (keys, values), strict=True):
                part[:, :, new] = fresh
            return parts[0][:, :, filled], parts[1][:, :, filled]
        out = []
        for codes, scales, fresh in zip(parts[:2], parts[2:], (keys, values), strict=True):
            codes[:, :, new], scales[:, :, new] = to_int8(fresh)
            out.append((codes[:, :, filled] * scales[:, :, filled]).to(fresh.dtype))
        return out[0], out[1]

    def advance(self, positions: int) -> None:
        """Count positions as read, once every layer has stored them."""
        self.length += positions

    def clear(self) -> None:
        self.length = 0


def position_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the bytes that one position of one sequence takes in all layers."""
    scales = torch.float32.itemsize if dtype == torch.int8 else 0
    return 2 * config.n_layers * config.n_kv_heads * (config.head_dim * dtype.itemsize + scales)


def to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (…, C) as int8, and what each of its vectors must be multiplied with to get it back, (…, 1)."""
    x = x.float()
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / LARGEST
    return (x / scale).round().to(torch.int8), scale


def _parts(shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return keys, values and, in int8, the scales of both."""
    parts = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(2)]
    if dtype == torch.int8:
        parts += [torch.zeros(*shape[:-1], 1, device=device) for _ in range(2)]
    return parts
