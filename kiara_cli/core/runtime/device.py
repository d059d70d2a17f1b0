"""The one layer between the model code and the machine: device, precision, threads, randomness.

In: the runtime section of a config. Out: a `Runtime` in which every `auto` has been decided.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch

from kiara_cli.config.environment import repeatable_products
from kiara_cli.config.schema import Device, Dtype, RuntimeConfig
from kiara_cli.core.runtime.parallel import ALONE, World
from kiara_cli.core.runtime.threads import allowed_threads
from kiara_cli.errors import KiaraError

OPENMP = torch.get_num_threads()  # as OMP_NUM_THREADS said, or the program that imported this
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TRIAL = 512  # rows and columns of the trial products that choose a precision
PEAK = 1024  # and of those that measure the peak: large enough to be near it, 21 ms at 100 GFLOP/s
LONG = 0.005  # seconds of a product after which no larger one is tried
WORTH_IT = 1.5  # bf16 must beat fp32 by this factor to be chosen on a CPU (a guess: casts cost some of it)

log = logging.getLogger("kiara.runtime")

_rates: dict[tuple[torch.device, str, int, int], float] = {}  # the best so far, by device, dtype, size and threads


@dataclass(frozen=True)
class Runtime:
    """Where and how to compute. Weights stay in float32; `dtype` is what matrix products run in."""

    device: torch.device
    dtype: Dtype  # fp32, bf16 or fp16
    threads: int
    adaptive: bool = False  # whether there may be fewer threads while other programs use the cores

    @property
    def device_name(self) -> Device:
        """The device as a config writes it."""
        return cast(Device, self.device.type)

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """Run matrix products in `dtype` inside this block."""
        with torch.autocast(self.device.type, DTYPES[self.dtype], enabled=self.dtype != "fp32", cache_enabled=True):
            yield


def decide(config: RuntimeConfig, trains: bool = False, world: World = ALONE) -> Runtime:
    """Decide every `auto`, and set threads and determinism for this process. Raises KiaraError.

    Nothing of CUDA is touched when the device is a CPU. On CUDA only a training refuses operations that may not give
    the same bits again, and takes others in their place: sampling cannot do without running sums. The processes of a
    `world` on one machine share its cores, and keep their threads: a slower one would hold up all.
    """
    threads = _pick_threads(world) if config.threads == "auto" else int(config.threads)
    torch.set_num_threads(threads)
    device = torch.device(pick_device(config.device))
    strict = config.deterministic and (device.type == "cpu" or (device.type == "cuda" and trains))
    if strict and device.type == "cuda":
        repeatable_products()
    # Merely to warn would leave attention's backward pass as it is. As use_deterministic_algorithms, which loads the
    # compiler too.
    torch.set_deterministic_debug_mode("error" if strict else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that costs 3 % of a step
    dtype = config.dtype if config.dtype != "auto" else _pick_dtype(device)
    adaptive = config.threads == "auto" and device.type == "cpu" and world.size == 1
    return Runtime(device, dtype, threads, adaptive)


@contextlib.contextmanager
def not_strict() -> Iterator[None]:
    """Within this block allow what may not give the same bits again: sampling's running sums on CUDA."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


@contextlib.contextmanager
def refusals_in_words() -> Iterator[None]:
    """Raise KiaraError where PyTorch refuses, inside this block, what may not give the same bits again."""
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        cause = str(error).split(", but", 1)[0].split(". ", 1)[0]
        remedy = "set runtime.deterministic=false: the run then may not give the same bits again"
        raise KiaraError(f"runtime.deterministic=true: {cause}", remedy) from error


def seed_everything(seed: int) -> None:
    """Seed torch's generators: initial weights and dropout. Batches take their order from the seed itself."""
    torch.manual_seed(seed)


def matrix_rate(device: torch.device, dtype: Dtype, size: int = PEAK, again: bool = False) -> float:
    """Measure the floating-point operations a second of a product of size × size matrices, once a process.

    Where products are slow, as those of fp16 on a CPU, smaller matrices are taken. With `again` it is measured once
    more and the best so far returned: the machine may have been busy before.
    """
    key = (device, dtype, size, torch.get_num_threads())
    if again or key not in _rates:
        _rates[key] = max(_rates.get(key, 0.0), _measured_rate(device, DTYPES[dtype], size))
    return _rates[key]


def planning_rate(runtime: Runtime) -> float:
    """Return the operations a second to plan with, also on a machine that is busy.

    On a CPU that of one thread times the threads: several measure how they wait for one that has lost its core, and
    have made a small training look forty times as long as it is.
    """
    if runtime.device.type != "cpu":
        return matrix_rate(runtime.device, runtime.dtype)
    with one_thread():
        return runtime.threads * matrix_rate(runtime.device, runtime.dtype, TRIAL)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within this block compute with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _measured_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    side, best = min(64, size), 0.0
    while True:
        a = torch.ones(side, side, dtype=dtype, device=device)
        for _ in range(6):  # the first warms up; the maximum ignores it
            start = time.perf_counter()
            wait(device, a @ a)
            seconds = time.perf_counter() - start
            best = max(best, 2 * side**3 / max(seconds, 1e-9))
        if side >= size or seconds > LONG:
            return best
        side = min(2 * side, size)


def wait(device: torch.device, result: torch.Tensor) -> None:
    """Return when `result` has been computed: at once on a CPU."""
    if device.type != "cpu":
        result.flatten()[0].item()


def exact(x: torch.Tensor) -> torch.Tensor:
    """Return numbers in float64: on their device, or on the CPU where the device (MPS) has no such numbers."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held so far: of this process on a CPU, of the device's memory otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    try:
        import resource
    except ImportError:  # Windows
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def pick_device(wanted: str) -> str:
    """Name the device that runtime.device asks for. Raises KiaraError where there is none."""
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


def _pick_threads(world: World) -> int:
    """Choose as many threads as this process may use, and say so where that is less than the machine has.

    Where nothing is said torchrun starts each of several processes with OMP_NUM_THREADS=1: that is no limit.
    """
    if world.local_size > 1:
        allowed = allowed_threads().threads // world.local_size
        return max(1, allowed if OPENMP == 1 else min(allowed, OPENMP))
    allowance = allowed_threads(OPENMP)
    if allowance.limit is not None:
        log.info("%d thread%s: %s allows no more.", allowance.threads, "s"[: allowance.threads > 1], allowance.limit)
    return allowance.threads


def _pick_dtype(device: torch.device) -> Dtype:
    """Choose bf16 where it is faster: by capability on CUDA, by a short trial product on a CPU."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type != "cpu":
        return "fp32"
    return "bf16" if bf16_gain() > WORTH_IT else "fp32"


def bf16_gain() -> float:
    """Return how many times as fast as in fp32 a product in bf16 is on this CPU, in one thread, measured."""
    cpu = torch.device("cpu")
    with one_thread():
        return matrix_rate(cpu, "bf16", TRIAL) / matrix_rate(cpu, "fp32", TRIAL)
