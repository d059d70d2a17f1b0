"""The one layer between the model code and the machine: device, precision, threads, randomness.

In: the runtime section of a config. Out: a `Runtime` in which every `auto` has been decided.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch

from kiara_cli.config.schema import Device, Dtype, RuntimeConfig
from kiara_cli.errors import KiaraError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TRIAL = 512  # rows and columns of the trial product
WORTH_IT = 1.5  # bf16 must beat fp32 by this factor to be chosen on a CPU (a guess: casts cost some of it)


@dataclass(frozen=True)
class Runtime:
    """Where and how to compute. Weights stay in float32; `dtype` is what matrix products run in."""

    device: torch.device
    dtype: Dtype  # fp32 or bf16
    threads: int

    @property
    def device_name(self) -> Device:
        """The device as a config writes it."""
        return cast(Device, self.device.type)

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """Run matrix products in `dtype` inside this block."""
        with torch.autocast(self.device.type, DTYPES[self.dtype], enabled=self.dtype != "fp32", cache_enabled=True):
            yield


def decide(config: RuntimeConfig) -> Runtime:
    """Decide every `auto`, and set threads and determinism for this process. Raises KiaraError.

    Nothing of CUDA is touched when the device is a CPU.
    """
    threads = physical_cores() if config.threads == "auto" else int(config.threads)
    torch.set_num_threads(threads)
    device = torch.device(_pick_device(config.device))
    strictness = "default" if not config.deterministic else "error" if device.type == "cpu" else "warn"
    torch.set_deterministic_debug_mode(strictness)  # use_deterministic_algorithms would import all of Inductor
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs 3 % of a step
    dtype = config.dtype if config.dtype != "auto" else _pick_dtype(device)
    return Runtime(device, dtype, threads)


def seed_everything(seed: int) -> None:
    """Seed torch's generators: initial weights and dropout. Batches take their order from the seed itself."""
    torch.manual_seed(seed)


def physical_cores() -> int:
    """Count the cores this process may use, two hardware threads of one core as one."""
    has_affinity = hasattr(os, "sched_getaffinity")
    allowed = sorted(os.sched_getaffinity(0)) if has_affinity else range(os.cpu_count() or 1)
    cores = set()
    for cpu in allowed:
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as file:
                cores.add(file.read().strip())
        except OSError:
            cores.add(str(cpu))
    return max(1, len(cores))


def _pick_device(wanted: str) -> str:
    if wanted == "cpu":
        return "cpu"
    has: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if wanted == "auto":
        return next((name for name, available in has.items() if available()), "cpu")
    if not has[wanted]():
        raise KiaraError(
            f"runtime.device={wanted}: this machine, or this build of torch, has no {wanted}",
            "use runtime.device=auto",
        )
    return wanted


def _pick_dtype(device: torch.device) -> Dtype:
    """Choose bf16 where it is faster: by capability on CUDA, by a short trial product on a CPU."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type != "cpu":
        return "fp32"
    seconds = {name: _time_product(dtype) for name, dtype in DTYPES.items()}
    return "bf16" if seconds["fp32"] > WORTH_IT * seconds["bf16"] else "fp32"


def _time_product(dtype: torch.dtype) -> float:
    """Return the best of five times, in seconds, of one product of TRIAL × TRIAL matrices."""
    a = torch.ones(TRIAL, TRIAL, dtype=dtype)
    best = float("inf")
    for _ in range(6):  # the first warms up; the minimum ignores it
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return best
