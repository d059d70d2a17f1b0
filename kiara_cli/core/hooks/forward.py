"""Forward hooks that come with Kiara, in TransformerLens' words: suppress, scale, add, set; and identity.

In: what passes a point, (B, T, D) or as model/points.py says. Out: what takes its place where the config selects.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kiara_cli.core.hooks.context import At
from kiara_cli.core.hooks.registry import forward


@forward
def identity(x: Tensor, at: At) -> Tensor:
    """Change nothing: to see that a hook is called, and what being called costs."""
    return x


@forward(replaces=True)
def suppress(x: Tensor, at: At) -> Tensor:
    """Put zero in its place."""
    return at.put(x, 0.0)


@forward
def scale(x: Tensor, at: At, factor: float) -> Tensor:
    """Multiply it with a factor."""
    return at.put(x, x * factor)


@forward(width="value")
def add(x: Tensor, at: At, value: tuple[float, ...]) -> Tensor:
    """Add a number, or a vector as long as the last axis."""
    return at.put(x, x + vector(x, value))


@forward(name="set", width="value", replaces=True)
def set_to(x: Tensor, at: At, value: tuple[float, ...]) -> Tensor:
    """Put a number in its place, or a vector as long as the last axis."""
    return at.put(x, vector(x, value))


def vector(x: Tensor, value: tuple[float, ...]) -> Tensor:
    """Return a value of the config as a tensor that broadcasts to x."""
    return torch.tensor(value, dtype=x.dtype, device=x.device)
