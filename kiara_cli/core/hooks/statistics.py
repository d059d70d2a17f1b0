"""Hooks that only look: how large activations, gradients and updates are, layer by layer, while a model learns.

In: what passes a point, or the parameters around the optimizer's step. Out: numbers in metrics.jsonl, named
`stat_WHAT/PLACE`; `kiara runs plot RUN --statistics` draws them. Every `interval` updates, by default ten; a record
holds the means of those since the record before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kiara_cli.core.hooks.context import At, UpdateContext
from kiara_cli.core.hooks.registry import forward, update
from kiara_cli.core.hooks.update import Kept, Named
from kiara_cli.errors import KiaraError

SMALL = (
    0.01  # of the root mean square: an activation nearer to zero counts as zero (a guess; SwiGLU has no exact zeros)
)


@forward(
    points=("embed.out", "blocks.*.attention.out", "blocks.*.feedforward.hidden", "blocks.*.resid_post",
            "final_norm.out")
)  # fmt: skip
def activation_statistics(x: Tensor, at: At, interval: int = 10) -> None:
    """Record the root mean square of what passes; of the feedforward also how much of it is zero or dead.

    `stat_zero` is the share of numbers below a hundredth of the root mean square, `stat_dead` the share of channels
    that are so at every position of the batch.
    """
    check(interval)
    if not at.training or at.again or at.step % interval:
        return
    x = x.detach().float()
    rms = x.square().mean().sqrt()
    at.log(f"stat_rms/{at.point}", rms)
    if at.point.endswith("feedforward.hidden"):
        small = x.abs() < SMALL * rms
        at.log(f"stat_zero/{at.point}", small.float().mean())
        at.log(f"stat_dead/{at.point}", small.flatten(0, -2).all(0).float().mean())


@update(name="update_statistics")
class UpdateStatistics:
    """Record of each matrix the norm of its gradient before clipping, and how far an update moves it.

    `stat_update` is the norm of the change over the norm of the weights. As the last update hook of a config it sees
    what all others do. At these steps it holds a second copy of the weights.
    """

    def __init__(self, interval: int = 10) -> None:
        check(interval)
        self.interval = interval
        self._before: Kept = {}

    def gradients(self, named: Named, context: UpdateContext) -> None:
        if context.step % self.interval == 0:
            for name, parameter in named.items():
                if parameter.grad is not None and parameter.ndim >= 2:
                    context.log(f"stat_gradient/{name}", torch.linalg.vector_norm(parameter.grad))

    def before_step(self, named: Named, context: UpdateContext) -> None:
        if context.step % self.interval == 0:
            learns = {name: parameter for name, parameter in named.items() if parameter.grad is not None}
            self._before = {name: weight.detach().clone() for name, weight in learns.items() if weight.ndim >= 2}

    def after_step(self, named: Named, context: UpdateContext) -> None:
        for name, before in self._before.items():
            moved = torch.linalg.vector_norm(named[name] - before)
            context.log(f"stat_update/{name}", moved / torch.linalg.vector_norm(before).clamp(min=1e-12))
        self._before = {}


def check(interval: int) -> None:
    """Raise KiaraError for no interval."""
    if interval < 1:
        raise KiaraError(f"with.interval={interval} is no interval", "give 1 or more updates")
