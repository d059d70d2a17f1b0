"""What a training is planned for: this machine as measured, or a device of a data sheet; how many, and their price.

In: what was asked for. Out: `Target`.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass

from kiara_cli.config.schema import Config
from kiara_cli.core.lab.planning.devices import Device
from kiara_cli.core.lab.planning.speed import Speed, projected_speed, this_speed
from kiara_cli.core.runtime.device import Runtime, peak_memory
from kiara_cli.core.runtime.memory import read_memory

# Memory beside what tensors hold. On a CPU, measured over the shapes of benchmarks/plan.py: what the first update
# loads, and the share of what comes and goes in blocks below 32 MB that glibc keeps and cannot use again.
LOADED, KEPT = 65_000_000, 0.5
CONTEXT, KEPT_BY_CUDA = 600_000_000, 0.05  # of a CUDA process and of PyTorch's allocator: guesses
LOOPBACK = 1.5e9  # bytes a second between two processes here, by gloo (a guess: --link says better)


@dataclass(frozen=True)
class Target:
    """The devices, and what is known of each."""

    name: str
    kind: str  # cpu, cuda, mps
    dtype: str
    speed: Speed
    available: float | None  # bytes
    process: int  # bytes beside tensors
    kept: float  # share of what comes and goes in small blocks that the allocator adds
    link: float
    network: float
    together: int
    fused: bool = False  # C loops
    how: str = ""
    devices: int = 1
    watts: float | None = None
    price: float | None = None  # dollars an hour and device
    measured: bool = False  # by real steps


def this_target(runtime: Runtime, fused: bool, how: str, name: str = "this machine") -> Target:
    """Describe this machine, measuring it."""
    process = peak_memory(runtime.device) if runtime.device.type == "cpu" else CONTEXT  # before the trials add to it
    if runtime.device.type == "cuda":
        import torch

        available: float | None = float(torch.cuda.mem_get_info(runtime.device)[0])
    else:
        available = read_memory().available
        available = None if available is None else available + process
    glibc = sys.platform == "linux" and runtime.device.type == "cpu"
    return Target(
        name,
        runtime.device.type,
        runtime.dtype,
        this_speed(runtime),
        available,
        process + (LOADED if runtime.device.type == "cpu" else 0),
        KEPT if glibc else KEPT_BY_CUDA,
        LOOPBACK,
        LOOPBACK,
        1_000_000,
        fused,
        how,
    )


def named_target(device: Device, config: Config) -> Target:
    """Describe a device of the table."""
    dtype = config.runtime.dtype if config.runtime.dtype != "auto" else device.dtype
    return Target(
        device.name,
        device.kind,
        dtype,
        projected_speed(device),
        device.memory,
        CONTEXT,
        KEPT_BY_CUDA,
        device.link,
        device.network,
        device.together,
        how=f"{device.name}, {dtype}, not compiled",
        watts=device.watts,
        price=device.price,
    )


def with_options(
    target: Target, devices: int, price: float | None, watts: float | None, link: float | None
) -> Target:
    """Put what a person gives in the place of what the table says."""
    return dataclasses.replace(
        target,
        devices=devices,
        price=target.price if price is None else price,
        watts=target.watts if watts is None else watts,
        link=target.link if link is None else link,
        network=target.network if link is None else link,
    )
