"""Forward and backward hooks on a model's points, and what auxiliary losses read there.

In: a model and what a config asks for. Out: `Attached`: every point that is asked for calls its hooks, in the order
of the config, each with the value that the one before it left.

A hook is called once a forward pass at each of its points: the first pass in which it acts is checked for that. What
it returns must have the shape and type of what it was given; that it is finite is checked at once the first time,
and later as soon as the loss is not.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kiara_cli.core.hooks.asked import Asked, naming
from kiara_cli.core.hooks.context import At
from kiara_cli.core.model.attention import Attention, attend_by_products
from kiara_cli.core.model.points import OWN, WRITTEN_OUT, is_second_pass, kind_of, matches, points
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import DTYPES, Runtime
from kiara_cli.errors import KiaraError

log = logging.getLogger("kiara.hooks")

PROBE = 64  # positions on which the two ways of attention are compared
LOGITS = "logits"  # passed after the states, and not by everyone who asks for those


@dataclass(eq=False)
class Acting:
    """A hook at work: its function or object, and what is known of its calls."""

    asked: Asked
    call: Callable[..., Any]
    checked: bool = False  # whether its first forward pass was seen to call it
    verified: set[str] = field(default_factory=set)  # points at which its result was looked at
    readers: set[str] = field(default_factory=set)  # points at which it returned nothing

    @property
    def name(self) -> str:
        return self.asked.name


def make(asked: Asked) -> Acting:
    """Fill in the arguments; of a class, make an object. Raises KiaraError with what its `__init__` raises."""
    if not asked.hook.is_class:
        return Acting(asked, functools.partial(asked.hook.make, **asked.arguments))
    with naming(asked.name), telling(f"{asked.hook.name} cannot be made"):
        return Acting(asked, asked.hook.make(**asked.arguments))


@contextlib.contextmanager
def telling(where: str) -> Iterator[None]:
    """Turn any error of a person's code into one line that says where it arose."""
    try:
        yield
    except KiaraError as error:
        raise KiaraError(f"{where}: {error.cause}", error.remedy) from None
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        cause = f"{where}: {type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"
        raise KiaraError(cause, "correct the hook; --debug shows all of it") from error


class Attached:
    """Hooks on the points of one model. `step` and `updating` are for a training to set; outside it is 0."""

    def __init__(self, model: Transformer, acting: Sequence[Acting], seed: int, log_value: Any = None) -> None:
        self.model, self.acting, self.seed = model, list(acting), seed
        self.step, self.number, self.updating = 0, -1, False
        self.start = self.total = 0  # positions in the cache before this forward pass, and in it
        self.captured: dict[str, Tensor] = {}  # what auxiliary losses read in this forward pass
        self._calls: Counter[tuple[str, str]] = Counter()  # of this forward pass, by hook and point
        self._sums: list[tuple[str, str, Tensor]] = []  # whether a hook made what is not finite
        self._paused = False
        self._log = log_value or (lambda hook, name, value: None)
        found = points(model)
        for one in self.acting:
            for name in one.asked.points:
                found[name].register_forward_hook(functools.partial(self._fire, one, name))
        model.states = functools.partial(_states, self, model.states)  # type: ignore[method-assign]

    def begin(self, step: int) -> None:
        """Tell the hooks which update comes."""
        self.step, self.number, self.updating = step, -1, True
        self._sums.clear()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Within this block no hook is called."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def states(self, plain: Callable[..., Tensor], ids: Tensor, cache: Any = None, segments: Any = None) -> Tensor:
        """Run the model's own `states`, and see that each hook was called once."""
        if self._paused:
            return plain(ids, cache, segments)
        self.start, self.total = cache.length if cache is not None else 0, ids.shape[1]
        self.number += 1
        self._calls.clear()
        self.captured.clear()
        out = plain(ids, cache, segments)
        for one in self.acting:
            if not one.checked and one.asked.config.strength(self.step):
                self._check_called(one, [name for name in one.asked.points if name != LOGITS])
                one.checked = LOGITS not in one.asked.points
        return out

    def check_logits(self) -> None:
        """See that each hook on the logits was called, once they were computed."""
        for one in self.acting:
            if not one.checked and one.asked.config.strength(self.step):
                self._check_called(one, [LOGITS])
                one.checked = True

    def blame(self) -> None:
        """Raise KiaraError naming the first hook that made what is not finite, if one did."""
        for hook, point, bad in self._sums:
            if bool(bad):
                raise _not_finite(f"hooks.{hook} at {point} in step {self.step}")

    def values(self, ids: Tensor, names: Sequence[str], model: Transformer | None = None) -> dict[str, Tensor]:
        """Return what passes points of a model, this one without its hooks or another, when it reads ids (B, T)."""
        model = model or self.model
        out: dict[str, Tensor] = {}
        found, training = points(model), model.training
        keep = [found[name].register_forward_hook(functools.partial(_keep, out, name)) for name in names]
        model.eval()
        try:
            with torch.inference_mode(False), torch.no_grad(), self.paused():
                model(ids)
        finally:
            model.train(training)
            for handle in keep:
                handle.remove()
        return out

    def _fire(self, one: Acting, point: str, module: nn.Module, inputs: Any, x: Tensor) -> Tensor | None:
        strength = one.asked.config.strength(self.step)
        if self._paused or not strength:
            return None
        again = is_second_pass()
        if again and point in one.readers:
            return None
        if not again:
            self._calls[one.name, point] += 1
        if one.asked.hook.kind == "auxiliary":
            one.readers.add(point)
            if self.model.training:
                self.captured[point] = x
            return None
        where = f"hooks.{one.name} at {point} in step {self.step}" if self.step else f"hooks.{one.name} at {point}"
        with telling(where):
            out = one.call(x, self._at(one, point, x, strength, again))
        if out is None or out is x:
            one.readers.add(point)
            return None
        one.readers.discard(point)
        self._check_result(one, point, where, x, out)
        return out  # type: ignore[no-any-return]

    def _at(self, one: Acting, point: str, x: Tensor, strength: float, again: bool) -> At:
        axes = kind_of(point).axes
        rows = x.shape[axes.index("T") - len(axes)]
        return At(
            one.name, point, axes, one.asked.select, self.model, self.step, strength, self.model.training, again,
            self.start + self.total - rows, self.seed, self.number, functools.partial(self._log, one.name), self,
        )  # fmt: skip

    def _check_called(self, one: Acting, names: Sequence[str]) -> None:
        for name in names:
            if (calls := self._calls[one.name, name]) != 1:
                when = f"in step {self.step}" if self.step else "in the first forward pass"
                missed = "was never called" if not calls else f"was called {calls} times"
                every = ", ".join(one.asked.points)
                cause = f"hooks.{one.name} {missed} at {name} {when} (it is to act at {every})"
                raise KiaraError(cause, "the model does not pass that point once: hook another one")

    def _check_result(self, one: Acting, point: str, where: str, x: Tensor, out: Any) -> None:
        """Raise KiaraError, naming the hook, for a result that cannot take the place of x."""
        if not isinstance(out, Tensor):
            raise KiaraError(f"{where} returned a {type(out).__name__}", "return a tensor, or None to change nothing")
        if out.shape != x.shape:
            cause = f"{where} returned the shape {tuple(out.shape)}, not {tuple(x.shape)}"
            raise KiaraError(cause, "return a number for each that it was given")
        if (out.dtype, out.device) != (x.dtype, x.device):
            cause = f"{where} returned {out.dtype} on {out.device}, not {x.dtype} on {x.device}"
            raise KiaraError(cause, "end with .to(x)")
        if point not in one.verified or self.updating:
            bad = _spoils(x.detach(), out.detach(), point)
            if point not in one.verified and bool(bad):
                raise _not_finite(where)
            if point in one.verified and not is_second_pass():
                self._sums.append((one.name, point, bad))
            one.verified.add(point)


def written_out(model: Transformer, runtime: Runtime) -> Iterator[tuple[str, float]]:
    """Yield each attention whose scores or pattern are hooked, and how far it is from its usual way on a probe.

    The largest difference between the outputs for random queries, keys and values.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, module in model.named_modules():
            if isinstance(module, Attention) and (module.scores._forward_hooks or module.pattern._forward_hooks):
                shape = (2, module.H, min(model.config.context_length, PROBE), module.C)
                q, k, v = torch.randn(3, *shape).to(runtime.device, DTYPES[runtime.dtype])
                q.requires_grad_()  # as in training: what is fastest depends on it
                usual, plain = module.attend(q, k, v, None, 0.0), attend_by_products(q, k, v, None, 0.0)
                yield name, float((usual - plain).detach().abs().max())


def _states(attached: Attached, plain: Callable[..., Tensor], *inputs: Any, **named: Any) -> Tensor:
    return attached.states(plain, *inputs, **named)


OWN.add(_states)


def _keep(out: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, x: Tensor) -> None:
    out[name] = x


def _spoils(x: Tensor, out: Tensor, point: str) -> Tensor:
    """Return whether a result is not finite although what it was made of is; scores are -inf where masked."""
    if matches(point, WRITTEN_OUT):
        return out.isnan().any() & ~x.isnan().any()
    return ~out.sum(dtype=torch.float32).isfinite() & x.sum(dtype=torch.float32).isfinite()


def _not_finite(where: str) -> KiaraError:
    return KiaraError(
        f"{where} returned numbers that are not finite", "look for a division by zero, log(0) or too large a step"
    )
