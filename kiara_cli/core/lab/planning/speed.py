"""How long work takes: products, moving bytes, and calling operators, each at the rate of a machine.

In: `Work`, and `Speed`. Out: `Seconds`. On a CPU one follows the other; on a GPU calls are made ahead of the work.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from kiara_cli.core.lab.planning.devices import Device
from kiara_cli.core.lab.planning.trace import Work
from kiara_cli.core.runtime.device import DTYPES, Runtime, one_thread, planning_rate
from kiara_cli.core.runtime.machine import memory_rate

# Shares of the measured peaks that training reaches on a CPU, fitted to the shapes of benchmarks/plan.py: products
# between 0.7 and 0.8; bytes are written as well as read, and the peak is of reading.
PRODUCTS, MOVING = 0.75, 0.6
# Of data sheets, on a GPU: guesses. PaLM's training reached 0.46 of its peak altogether (Chowdhery et al., 2022).
PROJECTED_PRODUCTS, PROJECTED_MOVING, PROJECTED_CALL = 0.55, 0.8, 6e-6
BLOCK = 16_000_000  # numbers of the trials of memory: small, as their 64 MB count in what this process has held


@dataclass(frozen=True)
class Speed:
    """What a machine reaches; `basis` says where the numbers come from."""

    products: dict[str, float]  # operations a second, by dtype as torch calls it
    moving: float  # bytes a second
    call: float  # seconds an operator
    mapping: float = 0.0  # seconds a byte that the system gives anew
    ahead: bool = False  # calls are made while earlier ones are computed
    basis: str = ""


@dataclass(frozen=True)
class Seconds:
    """The parts of a time; `total` is not more than their sum."""

    products: float
    memory: float
    dispatch: float
    total: float
    communication: float = 0.0

    @property
    def limit(self) -> str:
        """Name the largest part."""
        parts = {
            "matrix products": self.products, "moving bytes": self.memory, "calling operators": self.dispatch,
            "communication": self.communication,
        }  # fmt: skip
        return max(parts, key=lambda name: parts[name])


def this_speed(runtime: Runtime) -> Speed:
    """Measure this machine; half a second."""
    products = {}
    for name in {"fp32", runtime.dtype}:
        of = Runtime(runtime.device, name, runtime.threads)
        products[str(DTYPES[name]).removeprefix("torch.")] = PRODUCTS * planning_rate(of)
    on_cpu = runtime.device.type == "cpu"
    moving = memory_rate(runtime.device, BLOCK)
    if on_cpu:
        with one_thread():  # on a busy machine it is faster than several, which wait for each other
            moving = max(moving, memory_rate(runtime.device, BLOCK))
    return Speed(
        products,
        MOVING * moving,
        call_seconds(runtime.device),
        mapping_seconds() if on_cpu else 0.0,
        ahead=not on_cpu,
        basis=f"peaks measured on this machine, of which products reach {PRODUCTS:.0%}, moving bytes {MOVING:.0%}",
    )


def projected_speed(device: Device) -> Speed:
    """Take a data sheet's numbers at the shares that are usual."""
    return Speed(
        {str(DTYPES[name]).removeprefix("torch."): PROJECTED_PRODUCTS * rate for name, rate in device.flops.items()},
        PROJECTED_MOVING * device.bandwidth,
        PROJECTED_CALL,
        ahead=True,
        basis=f"projected from the data sheet at {PROJECTED_PRODUCTS:.0%} of its products and "
        f"{PROJECTED_MOVING:.0%} of its bytes, a guess",
    )


def seconds(speed: Speed, *works: tuple[Work, int]) -> Seconds:
    """Return what so many times each work takes."""
    products = memory = dispatch = 0.0
    slowest = min(speed.products.values())
    for work, times in works:
        products += times * sum(flops / speed.products.get(dtype, slowest) for dtype, flops in work.flops.items())
        memory += times * (work.moved / speed.moving + work.mapped * speed.mapping)
        dispatch += times * work.calls * speed.call
    computing = products + memory
    return Seconds(products, memory, dispatch, max(computing, dispatch) if speed.ahead else computing + dispatch)


def call_seconds(device: torch.device, calls: int = 2000) -> float:
    """Measure an operator that computes next to nothing, and its part of a backward pass."""
    x = torch.ones(8, device=device, requires_grad=True)
    best = float("inf")
    for _ in range(5):
        began, y = time.perf_counter(), x
        for _ in range(calls // 20):
            y = y * 1.0
        y.sum().backward()  # type: ignore[no-untyped-call]
        best = min(best, (time.perf_counter() - began) / (calls // 10))
    return best


def mapping_seconds() -> float:
    """Measure what it costs to write to memory that was not used before, beside memory that was; seconds a byte."""
    new = old = float("inf")
    for _ in range(2):
        began = time.perf_counter()
        block = torch.ones(BLOCK)
        between = time.perf_counter()
        block.fill_(2)
        new, old = min(new, between - began), min(old, time.perf_counter() - between)
    return max(0.0, new - old) / (4 * BLOCK)
