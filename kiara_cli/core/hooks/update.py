"""Update hooks that come with Kiara: they change gradients before the optimizer's step, or the weights after it.

In: the parameters by name, with their gradients, and the context of the update. Out: the same parameters, changed in
place. They work around any optimizer. `parameters` names them as `blocks.0.attention.qkv.weight` or by what they are
in, as `blocks.0`, `head` or `blocks.*.attention`, with the wildcards of points; null is all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from kiara_cli.core.hooks.context import Setting, UpdateContext
from kiara_cli.core.hooks.registry import update
from kiara_cli.core.hooks.select import expression
from kiara_cli.errors import KiaraError

Named: TypeAlias = dict[str, nn.Parameter]
Kept: TypeAlias = dict[str, Tensor]  # a tensor for each weight, by its name

TINY = 1e-12  # added to a norm that something is divided by


def chosen(named: Mapping[str, nn.Parameter], pattern: str | None) -> Named:
    """Return the parameters that a pattern names, or that are in what it names. Raises KiaraError where none are."""
    if pattern is None:
        return dict(named)
    fits = re.compile(rf"{expression(pattern)}(\..*)?")
    found = {name: parameter for name, parameter in named.items() if fits.fullmatch(name)}
    if not found:
        raise KiaraError(
            f"with.parameters={pattern}: the model has no such parameter",
            f"give a name, or the beginning of one, such as {next(iter(named))}",
        )
    return found


def matrices(named: Mapping[str, nn.Parameter], pattern: str | None) -> list[nn.Parameter]:
    """Return the chosen parameters that are matrices, with a row for each output. Raises KiaraError if none is."""
    found = [parameter for parameter in chosen(named, pattern).values() if parameter.ndim >= 2]
    if not found:
        raise KiaraError(f"with.parameters={pattern}: none of them is a matrix", "name another part of the model")
    return found


class OfParameters:
    """What acts on chosen parameters: that there are some is known before the first step."""

    parameters: str | None
    choose: Callable[[Named, str | None], object] = staticmethod(matrices)

    def prepare(self, setting: Setting) -> None:
        self.choose(dict(setting.model.named_parameters()), self.parameters)


@update(name="centralize")
class Centralize(OfParameters):
    """Take from the gradient of each row of a matrix its mean (gradient centralization, Yong et al., 2020).

    A row holds what goes into one output. Norms and biases have no rows.
    """

    def __init__(self, parameters: str | None = "blocks") -> None:
        self.parameters = parameters

    def gradients(self, named: Named, context: UpdateContext) -> None:
        for parameter in matrices(named, self.parameters):
            if (gradient := parameter.grad) is not None:
                gradient.sub_(gradient.mean(1, keepdim=True), alpha=context.strength)


@update(name="project_gradient")
class ProjectGradient(OfParameters):
    """Take from the gradient of each row of a matrix the part along the row, which would only change its length.

    Where a norm follows, the length changes nothing but how fast the row turns (Heo et al., 2021, AdamP).
    """

    def __init__(self, parameters: str | None = "blocks") -> None:
        self.parameters = parameters

    def gradients(self, named: Named, context: UpdateContext) -> None:
        for parameter in matrices(named, self.parameters):
            if (gradient := parameter.grad) is not None:
                along = (gradient * parameter).sum(1, keepdim=True) / (parameter.square().sum(1, keepdim=True) + TINY)
                gradient.sub_(along * parameter, alpha=context.strength)


@update(name="bound_norm")
class BoundNorm(OfParameters):
    """Keep each row of a matrix no longer than `norm` (max-norm, Srebro and Shraibman, 2005).

    With `exactly` it is made as long as `norm` after every update (nGPT, Loshchilov et al., 2024).
    """

    def __init__(self, norm: float, parameters: str | None = "blocks", exactly: bool = False) -> None:
        if norm <= 0:
            raise KiaraError(f"with.norm={norm} is no length", "give a number above 0")
        self.norm, self.parameters, self.exactly = norm, parameters, exactly

    def after_step(self, named: Named, context: UpdateContext) -> None:
        for parameter in matrices(named, self.parameters):
            factor = self.norm / (torch.linalg.vector_norm(parameter, dim=1, keepdim=True) + TINY)
            factor = factor if self.exactly else factor.clamp(max=1.0)
            parameter.mul_(1 + context.strength * (factor - 1))


@update(name="freeze")
class Freeze(OfParameters):
    """Leave parameters as they are while the hook is on, bit for bit: from `from_step` to `to_step`.

    Their gradients are taken away, so that the optimizer passes them over: no step, no weight decay, and momentum and
    counts are as they were when they learn again. With a ramp their gradients shrink first. Other hooks that move
    weights by themselves, as lookahead does, are not held back.
    """

    choose = staticmethod(chosen)

    def __init__(self, parameters: str) -> None:
        self.parameters = parameters

    def gradients(self, named: Named, context: UpdateContext) -> None:
        for parameter in chosen(named, self.parameters).values():
            if context.strength < 1 and parameter.grad is not None:
                parameter.grad.mul_(1 - context.strength)
            else:
                parameter.grad = None


@update(name="layer_rates")
class LayerRates(OfParameters):
    """Give parameters a learning rate of their own: what an update changes of them is multiplied, decay included.

    By `factor`; and by `decay` for each block above (Howard and Ruder, 2018): of n blocks the last has 1, the first
    decay^(n - 1), the embeddings decay^n.
    """

    choose = staticmethod(chosen)

    def __init__(self, parameters: str | None = None, factor: float = 1.0, decay: float = 1.0) -> None:
        if factor < 0 or decay < 0:
            raise KiaraError(f"with.factor={factor}, with.decay={decay}: a rate below 0", "give 0 or more")
        self.parameters, self.factor, self.decay = parameters, factor, decay
        self._before: dict[str, Tensor] = {}

    def before_step(self, named: Named, context: UpdateContext) -> None:
        blocks = context.model.config.n_layers
        found = chosen(named, self.parameters)
        self._before = {
            name: parameter.detach().clone()
            for name, parameter in found.items()
            if parameter.grad is not None and self._factor(name, blocks) != 1
        }

    def after_step(self, named: Named, context: UpdateContext) -> None:
        blocks = context.model.config.n_layers
        for name, before in self._before.items():
            factor = 1 + context.strength * (self._factor(name, blocks) - 1)
            named[name].copy_(before.lerp_(named[name], factor))
        self._before = {}

    def _factor(self, name: str, blocks: int) -> float:
        part, layer, *_ = (*name.split("."), "")
        above = {"blocks": blocks - 1 - int(layer) if layer.isdigit() else 0, "tokens": blocks, "positions": blocks}
        return self.factor * float(self.decay) ** above.get(part, 0)


@update(name="lookahead", alone=True)
class Lookahead:
    """After every `every` updates go on from slow weights, which move by `share` of the way made since the last time.

    Lookahead (Zhang et al., 2019). With `momentum` they move by Nesterov's momentum over those ways, as in SNOO
    (Kallusky et al., 2025). The optimizer's own state stays. Slow weights are saved with the run and take as much
    memory as the weights. With a ramp the weights go back part of the way at first.
    """

    def __init__(self, every: int = 5, share: float = 0.5, momentum: float = 0.0) -> None:
        if every < 1 or not 0 < share <= 1 or not 0 <= momentum < 1:
            raise KiaraError(
                f"with.every={every}, with.share={share}, with.momentum={momentum} make no lookahead",
                "every is 1 or more, share above 0 and at most 1, momentum 0 or more and below 1",
            )
        self.every, self.share, self.momentum = every, share, momentum
        self._slow: Kept = {}
        self._speed: Kept = {}
        self._since = 0  # updates since the slow weights moved

    def before_step(self, named: Named, context: UpdateContext) -> None:
        self._slow = beside(named, self._slow)
        if self.momentum:
            self._speed = beside(named, self._speed, zero=True)

    def after_step(self, named: Named, context: UpdateContext) -> None:
        self._since += 1
        if self._since < self.every:
            return
        self._since = 0
        for name, slow in self._slow.items():
            way = named[name] - slow
            if self.momentum:
                speed = self._speed[name].mul_(self.momentum).add_(way)
                way = way.add_(speed, alpha=self.momentum)
            named[name].lerp_(slow + self.share * way, context.strength)
            slow.copy_(named[name])

    def state_dict(self) -> dict[str, Any]:
        return {"slow": self._slow, "speed": self._speed, "since": self._since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._slow, self._speed, self._since = dict(state["slow"]), dict(state["speed"]), state["since"]


@update(name="ema_nesterov", alone=True)
class EmaNesterov:
    """Make each update from a point that lies ahead in the direction in which the weights have moved on average.

    EMA-Nesterov (Yau et al., 2026, arXiv 2605.25395), around any optimizer:
    x' = update(x + b·m), m' = decay·m + (1 - decay)·(x' - x), with b = `reach` · lr / the highest lr so far.
    Between two updates the model holds x + b·m, which is what is measured and saved. x and m are saved with the run,
    and take twice the memory of the weights.
    """

    def __init__(self, reach: float = 0.3, decay: float = 0.99) -> None:
        if reach < 0 or not 0 <= decay < 1:
            raise KiaraError(
                f"with.reach={reach}, with.decay={decay} look nowhere",
                "reach is 0 or more, decay 0 or more and below 1",
            )
        self.reach, self.decay = reach, decay
        self._at: Kept = {}  # x
        self._mean: Kept = {}  # m
        self._highest = 0.0

    def before_step(self, named: Named, context: UpdateContext) -> None:
        self._at, self._mean = beside(named, self._at), beside(named, self._mean, zero=True)

    def after_step(self, named: Named, context: UpdateContext) -> None:
        self._highest = max(self._highest, context.lr)
        ahead = self.reach * context.strength * (context.lr / self._highest if self._highest else 1.0)
        for name, x in self._at.items():
            self._mean[name].lerp_(named[name] - x, 1 - self.decay)
            x.copy_(named[name])
            named[name].add_(self._mean[name], alpha=ahead)

    def state_dict(self) -> dict[str, Any]:
        return {"at": self._at, "mean": self._mean, "highest": self._highest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._at, self._mean, self._highest = dict(state["at"]), dict(state["mean"]), state["highest"]


def beside(named: Named, kept: Kept, zero: bool = False) -> Kept:
    """Return what is kept of each weight that learns, on the weight's device; at first a copy of it, or zeros."""
    if not kept:
        make = torch.zeros_like if zero else torch.clone
        return {name: make(weight.detach()) for name, weight in named.items() if weight.requires_grad}
    return {name: tensor.to(named[name].device) for name, tensor in kept.items()}
