"""Two 4-bit codes a byte, as they are stored: the same on every machine.

In: codes from -8 to 7, (N, K). Out: bytes (N, K / 2): the even column in the low half, the odd one in the high half,
each plus 8.
"""

from __future__ import annotations

import torch
from torch import Tensor

ZERO = 8  # the nibble that stands for 0


def to_nibbles(codes: Tensor) -> Tensor:
    """Return codes int8 (N, K) as bytes uint8 (N, K / 2)."""
    shifted = (codes + ZERO).to(torch.uint8)
    return shifted[:, 0::2] | (shifted[:, 1::2] << 4)


def from_nibbles(pairs: Tensor) -> Tensor:
    """Return bytes uint8 (…, K / 2) as codes int8 (…, K)."""
    both = torch.stack([pairs & 15, pairs >> 4], dim=-1).flatten(-2)
    return both.to(torch.int8) - ZERO
