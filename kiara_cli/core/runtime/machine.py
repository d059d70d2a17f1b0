"""What this machine can do at most, by measuring it.

In: a runtime. Out: `Peaks`: floating-point operations a second in matrix products, bytes a second from memory.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from kiara_cli.config.schema import Dtype
from kiara_cli.core.runtime.device import Runtime, matrix_rate, wait
from kiara_cli.core.runtime.processor import processor_name

BLOCK = 64_000_000  # numbers that are read to measure memory: 256 MB, more than caches hold
ROUNDS = 5


@dataclass(frozen=True)
class Peaks:
    """The fastest that was seen: operations a second of products by dtype, and bytes a second read from memory."""

    processor: str
    threads: int
    flops: dict[str, float]
    memory: float


def measure(runtime: Runtime) -> Peaks:
    """Measure the machine; about a second."""
    dtypes: tuple[Dtype, ...] = ("fp32", "bf16")
    flops: dict[str, float] = {dtype: matrix_rate(runtime.device, dtype) for dtype in dtypes}
    return Peaks(processor(runtime), runtime.threads, flops, memory_rate(runtime.device))


def memory_rate(device: torch.device, numbers: int = BLOCK) -> float:
    """Return the bytes a second of adding up a large block of memory."""
    block = torch.ones(numbers, device=device)
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        wait(device, block.sum())
        seconds.append(time.perf_counter() - began)
    return block.numel() * block.element_size() / min(seconds)


def processor(runtime: Runtime) -> str:
    """Return the name of what computes."""
    if runtime.device.type == "cuda":
        return torch.cuda.get_device_name(runtime.device)
    return processor_name()
