"""Backward hooks that come with Kiara: what is computed stays as it is, its gradient changes; or the other way round.

In: the tensor at a point. Out: the same numbers, whose gradient is changed on its way back; of `straight_through`
rounded numbers, whose gradient is that of the plain ones. The gradient at a point is that of what the loop minimises:
the mean over the targets of an update, times fp16's loss scale. A batch that goes through the model in several passes
(train.accumulation, pieces on a CPU) has a gradient for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from kiara_cli.core.hooks.context import At
from kiara_cli.core.hooks.registry import backward
from kiara_cli.errors import KiaraError

Change: TypeAlias = Callable[[Tensor], Tensor]

TINY = 1e-30  # in the place of a size of zero that something is divided by


class Rerouted(torch.autograd.Function):
    """x; and on the way back its gradient, changed by a function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Change) -> Tensor:
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.change(grad), None


class Straight(torch.autograd.Function):
    """A function of x; and on the way back the gradient as it comes, as if the function were not there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Change) -> Tensor:
        return change(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def rerouted(x: Tensor, at: At, change: Change) -> Tensor:
    """Return x, whose gradient is changed where the config selects, by the strength of the ramp."""
    out: Tensor = Rerouted.apply(x, lambda grad: at.put(grad, change(grad)))  # type: ignore[no-untyped-call]
    return out


@backward
def gradient_scale(x: Tensor, at: At, factor: float) -> Tensor:
    """Multiply the gradient with a factor: 0 stops it, a negative one reverses it (Ganin and Lempitsky, 2015)."""
    return rerouted(x, at, lambda grad: grad * factor)


@backward
def gradient_clip(x: Tensor, at: At, norm: float) -> Tensor:
    """Shorten the gradient at this point to `norm` where it is longer (Pascanu et al., 2013, a point at a time).

    A point of each block, as in blocks.*.resid_post, clips by layer. The length is over the whole tensor.
    """
    if norm <= 0:
        raise KiaraError(f"with.norm={norm} is no length", "give a number above 0")

    def change(grad: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(grad, dtype=torch.promote_types(grad.dtype, torch.float32))
        shortened: Tensor = grad * (norm / length).clamp(max=1.0).to(grad.dtype)
        return shortened

    return rerouted(x, at, change)


@backward
def gradient_noise(x: Tensor, at: At, size: float = 0.1, decay: float = 0.55) -> Tensor:
    """Add normal noise to the gradient, less at each step: variance (size · rms)² / (1 + step)^decay.

    Neelakantan et al. (2015); `rms` is the gradient's own, so that a size means the same at every point. The noise
    depends on runtime.seed, the step and the point alone.
    """
    if size < 0:
        raise KiaraError(f"with.size={size} is no size", "give 0 or more")

    def change(grad: Tensor) -> Tensor:
        drawn = torch.randn(grad.shape, generator=at.generator(torch.device("cpu"))).to(grad)
        rms = grad.float().square().mean().sqrt()
        noisy: Tensor = grad + drawn * (rms * (size * float(1 + at.step) ** (-decay / 2))).to(grad.dtype)
        return noisy

    return rerouted(x, at, change)


@backward
def gradient_sign(x: Tensor, at: At) -> Tensor:
    """Keep the gradient's signs alone, at the mean size that it has at each position (Bernstein et al., 2018)."""
    return rerouted(x, at, lambda grad: grad.sign() * grad.abs().mean(-1, keepdim=True))


@backward
def straight_through(x: Tensor, at: At, bits: int = 4) -> Tensor:
    """Round what passes to so many bits, and let the gradient through as if it were not rounded.

    Bengio et al. (2013). Each row (the last axis) has a step of its own: its largest number is 2^(bits - 1) - 1 steps
    from zero. With one bit it is the sign at the row's mean size (Rastegari et al., 2016).
    """
    if not 1 <= bits <= 16:
        raise KiaraError(f"with.bits={bits}: numbers cannot be rounded to that", "give 1 to 16")
    out: Tensor = Straight.apply(x, lambda x: at.put(x, rounded(x, bits)))  # type: ignore[no-untyped-call]
    return out


def rounded(x: Tensor, bits: int) -> Tensor:
    """Return x with each row of the last axis rounded to a few steps."""
    if bits == 1:
        return x.sign() * x.abs().mean(-1, keepdim=True)
    step: Tensor = x.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (x / step.clamp(min=TINY)).round() * step
