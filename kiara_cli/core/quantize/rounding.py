"""A matrix to small whole numbers and scales, each number rounded to the nearest there is.

In: a weight (N, K), how many bits, and the columns that share a scale. Out: codes and scales; their product is close
to the weight. Scales are bfloat16 from the start, so that no later cast moves the weights: codes are chosen for the
scale as stored.

N rows (outputs), K columns (inputs), G groups of columns, Q = K / G columns in each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LOWEST, HIGHEST = {8: -127, 4: -8}, {8: 127, 4: 7}
# What the largest number of a group is divided by to get its scale. 8 bits: so that it just fits. 4 bits: the best of
# these, where the larger ones cut off extremes for finer steps; negative scales give the extreme the 16th value, -8.
DIVISORS = {8: (-127.0,), 4: tuple(0.25 * step for step in range(22, 41)) + tuple(-0.25 * s for s in range(22, 41))}


@dataclass(frozen=True)
class Small:
    """A matrix as whole numbers: codes int8 (N, K), each within the range of its bits; scales bfloat16 (N, G)."""

    bits: int
    codes: Tensor
    scales: Tensor

    @property
    def group(self) -> int:
        """Columns that share a scale, Q."""
        return self.codes.shape[1] // self.scales.shape[1]

    def full(self) -> Tensor:
        """Return the matrix they stand for, in float32 (N, K)."""
        return dequantize(self.codes, self.scales, torch.float32)


def dequantize(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return codes (N, K) × scales (N, G)."""
    rows, groups = scales.shape
    return (codes.view(rows, groups, -1).to(dtype) * scales[:, :, None].to(dtype)).view(rows, -1)


def fit_scales(weight: Tensor, bits: int, group: int, importance: Tensor | None = None) -> Tensor:
    """Return the scales (N, G) that leave the smallest squared error, each column weighed by its importance (K,)."""
    rows, columns = weight.shape
    parts = weight.view(rows, -1, group)  # (N, G, Q)
    worth = torch.ones(columns, device=weight.device) if importance is None else importance
    worth = worth.view(1, -1, group).to(weight)
    extreme = parts.gather(2, parts.abs().argmax(dim=2, keepdim=True))  # (N, G, 1), with its sign
    best, smallest = torch.ones_like(extreme), torch.full_like(extreme, torch.inf)
    for divisor in DIVISORS[bits]:
        scale = (extreme / divisor).bfloat16().float()
        scale = torch.where(scale == 0, 1.0, scale)
        error = (worth * (parts - scale * _nearest(parts, scale, bits)).square()).sum(dim=2, keepdim=True)
        best, smallest = torch.where(error < smallest, scale, best), torch.minimum(error, smallest)
    return best[:, :, 0].bfloat16()


def to_nearest(weight: Tensor, scales: Tensor, bits: int) -> Small:
    """Round each number to the nearest multiple of its scale."""
    parts = weight.view(*scales.shape, -1)
    codes = _nearest(parts, scales[:, :, None].float(), bits).to(torch.int8)
    return Small(bits, codes.view(weight.shape), scales)


def round_to_nearest(weight: Tensor, bits: int, group: int) -> Small:
    """Make a float32 weight (N, K) small, one scale for every `group` columns of a row."""
    return to_nearest(weight, fit_scales(weight, bits, group), bits)


def _nearest(parts: Tensor, scales: Tensor, bits: int) -> Tensor:
    return (parts / scales).round().clamp(LOWEST[bits], HIGHEST[bits])
