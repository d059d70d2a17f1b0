"""What a piece of PyTorch code allocates and computes, followed operation by operation and without computing it.

In: code that runs inside `traced()`, on tensors made there. Out: `Trace`: bytes that are held now and were at most;
floating-point operations of products, bytes that the rest moves, calls.

The tensors are PyTorch's fake ones: they have shapes, dtypes and lifetimes, and no numbers. What a kernel allocates
for itself and frees again is not seen.
"""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

LARGE = 32 << 20  # bytes; glibc never keeps such blocks
COMING = ("activations", "logits", "temporary")  # parts that are made and given up again in each update


@dataclass
class Work:
    """What was computed: all numbers grow in step with the layers of a model."""

    flops: Counter[str] = field(default_factory=Counter)  # of products, by dtype
    moved: int = 0  # bytes that everything else reads and writes
    mapped: int = 0  # bytes that a CPU's allocator takes from the system anew each time: of blocks from LARGE on
    calls: int = 0  # of operators


@dataclass
class Block:
    """A piece of memory, and what it is held for."""

    part: str
    size: int
    comes: bool = False


class Trace:
    """What was seen so far. What is made now is held for `part`."""

    def __init__(self) -> None:
        self.part = "weights"
        self.held: Counter[str] = Counter()  # bytes now, by part
        self.highest: dict[str, int] = {}  # bytes by part when they were most together
        self.peak = 0  # which is so many
        self.work = Work()
        self.small = 0  # bytes that come and go in blocks below LARGE
        self.most_small = 0
        self.now = 0  # bytes held
        self._blocks = WeakIdKeyDictionary(ref_type=weakref.ref)  # by storage

    def see(self, tensor: Tensor) -> None:
        """Count the memory behind a tensor for as long as it lives."""
        storage = tensor.untyped_storage()
        if storage in self._blocks:
            return
        self._blocks[storage] = block = Block(self.part, storage.nbytes())
        weakref.finalize(storage, self._free, block).atexit = False
        self.work.mapped += block.size if block.size >= LARGE else 0
        self.held[self.part] += block.size
        self.now += block.size
        block.comes = self.part in COMING and block.size < LARGE
        self.small += block.size if block.comes else 0
        self.most_small = max(self.most_small, self.small)
        if self.now > self.peak:
            self.peak, self.highest = self.now, dict(self.held)

    def move(self, tensors: Iterable[Tensor], part: str) -> None:
        """Say that tensors are held for another part than the one they were made in."""
        for tensor in tensors:
            block = self._blocks[tensor.untyped_storage()]
            self.held[block.part] -= block.size
            self.held[part] += block.size
            block.part = part

    def call(self, dtype: torch.dtype, flops: int, moved: int) -> None:
        """Count the call of an operator: of products the operations, of all else the bytes."""
        self.work.calls += 1
        if flops:
            self.work.flops[str(dtype).removeprefix("torch.")] += flops
        else:
            self.work.moved += moved

    def restart(self) -> None:
        """Look for the highest point from here on."""
        self.peak, self.highest, self.most_small = self.now, dict(self.held), self.small

    def taken(self) -> Work:
        """Return what was computed since the last time."""
        work, self.work = self.work, Work()
        return work

    def _free(self, block: Block) -> None:
        self.held[block.part] -= block.size
        self.now -= block.size
        self.small -= block.size if block.comes else 0


class _Follow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tell a trace of every operation and of every tensor that comes out of one."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        from torch.utils.flop_counter import flop_registry

        self._trace, self._flops = trace, {**flop_registry, **attention_flops()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is torch.ops.prim.device.default:
            return out
        made = list(_tensors(out))
        for tensor in made:
            self._trace.see(tensor)
        packet = func.overloadpacket
        if not func.is_view and packet.__name__ not in FREE:
            count = self._flops.get(packet)
            flops = int(count(*args, **kwargs, out_val=out)) if count is not None else 0
            dtype = made[0].dtype if made else torch.float32
            self._trace.call(dtype, flops, _bytes((args, kwargs, out)))
        return out


FREE = {  # calls that neither compute nor move anything
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "new_empty_strided",
    "detach",
    "_unsafe_view",
}


def attention_flops() -> dict[Any, Callable[..., int]]:
    """Return what a CPU's fused attention computes, which torch's table leaves out: half the square where causal."""

    def forward(q: Tensor, k: Tensor, *rest: Any, out_val: Any, **named: Any) -> int:
        causal = named.get("is_causal", rest[2] if len(rest) > 2 else False)
        return 4 * q.numel() * k.shape[2] // (2 if causal else 1)

    def backward(grad: Tensor, q: Tensor, k: Tensor, *rest: Any, out_val: Any, **named: Any) -> int:
        causal = named.get("is_causal", rest[4] if len(rest) > 4 else False)
        return 10 * q.numel() * k.shape[2] // (2 if causal else 1)  # scores again, and four products

    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }


def _tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors among arguments or results."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _bytes(values: Any) -> int:
    """Return the bytes of different tensors: one that is read and written, as in place, counts twice."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(values))


class Unrun:
    """In the place of the library of C loops: calls are counted and nothing is run.

    Of a call the integers say how many numbers of two bytes it reads and writes; see fused.c.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __getattr__(self, name: str) -> Callable[..., None]:
        numbers = NUMBERS[name]

        def call(*arguments: Any) -> None:
            sizes = [value for value in arguments if isinstance(value, int) and value]  # addresses are 0 or None
            self._trace.call(torch.bfloat16, 0, 2 * numbers(sizes))

        return call

    def __deepcopy__(self, memo: object) -> Unrun:
        return self


def _heads(sizes: list[int]) -> int:
    B, T, H, K, C = sizes[:5]
    return B * T * (H + 2 * K) * C


# Of each loop: how many numbers go in and out, of its sizes.
NUMBERS: dict[str, Callable[[list[int]], int]] = {
    "rms_norm": lambda sizes: 2 * sizes[0] * sizes[1],
    "rms_norm_back": lambda sizes: 3 * sizes[0] * sizes[1],
    "swiglu": lambda sizes: 3 * sizes[0] * sizes[1],
    "swiglu_back": lambda sizes: 5 * sizes[0] * sizes[1],
    "heads": lambda sizes: 2 * _heads(sizes),
    "heads_back": lambda sizes: 3 * _heads(sizes),
    "softmax": lambda sizes: 2 * sizes[0] * sizes[1] * sizes[2] * sizes[3],
    "softmax_back": lambda sizes: 3 * sizes[0] * sizes[1],
    "drop": lambda sizes: 2 * sizes[0],
}


@contextmanager
def traced() -> Iterator[Trace]:
    """Within this block tensors are made without memory, and nothing is computed."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    trace = Trace()
    with (
        warnings.catch_warnings(action="ignore"),  # the addresses of fake tensors, which are 0, are asked for
        FakeTensorMode(),
        _Follow(trace),
    ):
        yield trace
