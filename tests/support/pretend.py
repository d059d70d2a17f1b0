"""A device that this machine does not have: tensors that say they are on it, and compute on the CPU.

In: code to run inside `pretend("cuda")`. Out: what it computes, or an error at the first operation that the real
device would refuse: tensors of two devices in one operation, float64 where the device has none, a pointer given to C.
Random numbers drawn on the device are refused too, as a seed would mean something else there.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

aten = torch.ops.aten

MOVES = (aten._to_copy.default, aten.copy_.default)  # what may have tensors of two devices
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
NO_DOUBLE = ("mps",)


class Elsewhere(Tensor):
    """A tensor of the pretended device; `inner` holds its numbers on the CPU.

    C++ takes it for one of "meta", so that no driver is asked for; Python sees the pretended device.
    """

    inner: Tensor
    place: torch.device

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor, where: torch.device) -> Elsewhere:
        shell = torch.empty_strided(inner.shape, inner.stride(), dtype=inner.dtype, device="meta")
        out = Tensor._make_subclass(cls, shell, False, device_for_backend_keys=where)
        torch._C._set_throw_on_mutable_data_ptr(out)
        out.inner, out.place = inner, where
        return out

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        where = next(x.place for x in tensors((args, kwargs)) if isinstance(x, Elsewhere))
        return run(func, args, kwargs or {}, where)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(with_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(with_tensors(index), value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied = Elsewhere(self.inner.detach().clone(), self.place).requires_grad_(self.requires_grad)
            copied._is_param = getattr(self, "_is_param", False)  # type: ignore[attr-defined]
            memo[id(self)] = copied
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.detach().__reduce_ex__(protocol)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.inner!r})"


def with_tensors(index: Any) -> Any:
    """Return an index with tensors in place of lists, of which C++ would make tensors without values."""
    if isinstance(index, tuple):
        return tuple(map(with_tensors, index))
    return torch.tensor(index) if isinstance(index, list) else index


class Mode(TorchDispatchMode):
    """Sees every operation, those that make tensors included."""

    def __init__(self, where: torch.device) -> None:
        super().__init__()
        self.where = where

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {}, self.where)


@contextmanager
def pretend(name: str) -> Iterator[torch.device]:
    """Within this block there is a device of that name, number 0."""
    where = torch.device(name, 0)
    with pytest.MonkeyPatch.context() as patch, Mode(where):
        replace_driver(patch, where)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=…) makes a tensor here and moves it
        try:
            yield where
        finally:
            torch._C._set_only_lift_cpu_tensors(False)


def run(func: Any, args: Any, kwargs: dict[str, Any], where: torch.device) -> Any:
    """Compute one operation on the CPU, after a check that the device would have done it."""
    if func is aten._fused_sdp_choice.default:
        return 0  # attention by plain operators: the others are of real devices
    wanted = kwargs.get("device") or next((x for x in args if isinstance(x, torch.device)), None)
    ours = [x for x in tensors((args, kwargs)) if isinstance(x, Elsewhere)]
    stays = bool(ours) if wanted is None else torch.device(wanted).type in (where.type, "meta")
    if func is aten.copy_.default:  # not where it comes from
        stays = isinstance(args[0], Elsewhere)
    if not ours and not stays:
        return func(*args, **kwargs)
    with Mode(where):  # an operation made of others: look at those
        out = func.decompose(*args, **kwargs)
    if out is not NotImplemented:
        return out
    if torch.Tag.nondeterministic_seeded in func.tags:
        raise RuntimeError(f"{func} draws random numbers on {where}")
    if func not in MOVES and ours:
        check_same_device(func, args, kwargs)
    inner_args, inner_kwargs = replaced(lambda x: x.inner if isinstance(x, Elsewhere) else x, (args, kwargs))
    if wanted is not None:
        inner_kwargs["device"] = torch.device("cpu")
    out = func(*inner_args, **inner_kwargs)
    if stays:
        doubles = [x for x in tensors(out) if x.dtype == torch.float64]
        if doubles and where.type in NO_DOUBLE:
            raise TypeError(f"{func}: {where} has no float64")
        out = replaced(lambda x: Elsewhere(x, where), out)
    return return_and_correct_aliasing(func, args, kwargs, out) if wanted is None and aliases(func) else out


def tensors(x: Any) -> Iterator[Tensor]:
    """Yield the tensors among arguments or results."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, dict | list | tuple):
        for each in x.values() if isinstance(x, dict) else x:
            yield from tensors(each)


def replaced(change: Callable[[Tensor], Tensor], x: Any) -> Any:
    """Return arguments or results with other tensors."""
    if isinstance(x, dict):
        return {key: replaced(change, each) for key, each in x.items()}
    if isinstance(x, list | tuple):
        return type(x)(replaced(change, each) for each in x)
    return change(x) if isinstance(x, Tensor) else x


@functools.cache
def aliases(func: Any) -> bool:
    """Say whether an operation changes what it is given, or returns a view of it."""
    return any(argument.alias_info is not None for argument in func._schema.arguments)


def check_same_device(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Raise RuntimeError for an operation over two devices. Single numbers of the CPU may go anywhere."""
    given = (args, kwargs)
    if func in INDEXING and isinstance(args[0], Elsewhere):
        given = args[0], args[2:]  # torch moves indices to what they index
    if any(not isinstance(x, Elsewhere) and x.dim() for x in tensors(given)):
        raise RuntimeError(f"{func}: tensors on the CPU and on another device")


class Event:
    """Stands for torch.cuda.Event."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, later: Event) -> float:
        return 1000 * (later.at - self.at)


def replace_driver(patch: pytest.MonkeyPatch, where: torch.device) -> None:
    """Answer what torch asks the device's driver and not a tensor; inference mode knows no such tensors."""
    patch.setattr(torch._C, "_InferenceMode", lambda on: torch.no_grad())
    replaced = torch.__future__.get_swap_module_params_on_conversion()
    patch.setattr(torch.__future__, "get_swap_module_params_on_conversion", lambda: replaced or True)
    patch.setattr(torch.cuda, "_lazy_init", lambda: None)
    patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    patch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True)
    patch.setattr(torch.cuda, "Event", Event)
    patch.setattr(torch.cuda, "synchronize", lambda: None)
    patch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1)
    patch.setattr(torch.mps, "driver_allocated_memory", lambda: 1)
    for module in (torch.cuda, torch.mps):
        patch.setattr(module, "get_rng_state", lambda *device: torch.zeros(8, dtype=torch.uint8))
        patch.setattr(module, "set_rng_state", lambda *state: None)
    patch.setattr(Tensor, "pin_memory", lambda self: self)
    for module in ("runtime.device", "train.resume"):
        patch.setattr(f"kiara_cli.core.{module}.pick_device", lambda wanted: str(where))
