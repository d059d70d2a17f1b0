"""What computes, and how fast: devices, threads, precision; measured as training and `kiara bench` measure it.

In: a host, with torch working. Out: findings.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kiara_cli.core.lab.doctor.finding import Finding, Host, size
from kiara_cli.core.runtime.device import OPENMP, WORTH_IT, Runtime, bf16_gain, decide
from kiara_cli.core.runtime.machine import measure
from kiara_cli.core.runtime.memory import read_memory
from kiara_cli.core.runtime.threads import allowed_threads
from kiara_cli.errors import KiaraError

ROOM = 1_000_000_000  # bytes that must be free before memory is measured, which takes 256 MB


def look_at_speed(host: Host) -> Iterator[Finding]:
    """Look at devices, then measure the one that Kiara would choose."""
    yield from _devices()
    try:
        runtime = decide(host.runtime)
    except KiaraError as error:
        yield Finding("device", "broken", error.cause, "every command that computes stops here", error.remedy)
        return
    name, device = runtime.device.type, f"runtime.device={host.runtime.device}"
    yield Finding("device", "ok", name, f"where models compute ({device})")
    if name == "cpu":
        yield _threads(host, runtime)
    yield from _products(host, runtime)
    yield _dtype(host, runtime)


def _devices() -> Iterator[Finding]:
    meaning = "a GPU, for models that take too long on a CPU"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            value = f"{about.name}, {size(about.total_memory)}, compute capability {about.major}.{about.minor}"
            yield Finding(f"CUDA {index}", "ok", value, meaning)
    elif torch.version.cuda is not None:
        yield Finding(
            "CUDA",
            "off",
            f"torch is built for CUDA {torch.version.cuda}, but sees no GPU",
            meaning,
            "with an NVIDIA GPU: look at nvidia-smi, or docker run --gpus all",
        )
    else:
        yield Finding(
            "CUDA",
            "off",
            "this build of torch is without",
            meaning,
            "with an NVIDIA GPU: install torch's CUDA build, as PyTorch's own install page says",
        )
    if torch.backends.mps.is_available():
        yield Finding("MPS", "ok", "there", "the GPU of a Mac")
    elif torch.backends.mps.is_built():
        yield Finding(
            "MPS",
            "off",
            "this build of torch has it, but the machine does not offer it",
            "the GPU of a Mac",
            "macOS 12.3 or newer on Apple silicon has it",
        )


def _threads(host: Host, runtime: Runtime) -> Finding:
    value, limit = str(runtime.threads), allowed_threads(OPENMP, proc=host.proc, cgroups=host.cgroups).limit
    if host.runtime.threads != "auto":
        return Finding("threads", "ok", value, f"as runtime.threads={host.runtime.threads} says")
    if limit is not None:
        return Finding("threads", "ok", value, f"{limit} allows no more")
    return Finding("threads", "ok", value, "one a core")


def _products(host: Host, runtime: Runtime) -> Iterator[Finding]:
    free = read_memory(host.proc, host.cgroups).available
    if free is not None and free < ROOM:
        yield Finding("products", "off", "not measured", "there is too little memory to measure it")
        return
    peaks = measure(runtime)
    rates = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, rate in peaks.flops.items())
    yield Finding("products", "ok", rates, "the most that training can reach; kiara bench says how near it comes")
    yield Finding(
        "memory speed",
        "ok",
        f"{size(int(peaks.memory))}/s",
        "writing reads every weight once a token: this, divided by a model's bytes, is the most tokens a second",
    )


def _dtype(host: Host, runtime: Runtime) -> Finding:
    """Say which precision matrix products run in, and why."""
    value, chosen = str(runtime.dtype), f"runtime.dtype={host.runtime.dtype}"
    if runtime.device.type != "cpu":
        return Finding("precision", "ok", value, f"of matrix products; weights stay in fp32 ({chosen})")
    gain = bf16_gain()
    value = f"{runtime.dtype}; a product in bf16 is {gain:.1f} times as fast as in fp32"
    if host.runtime.dtype != "auto":
        return Finding("precision", "ok", value, f"chosen by {chosen}")
    if runtime.dtype == "bf16":
        return Finding("precision", "ok", value, f"bf16 is chosen from {WORTH_IT:g} times on; weights stay in fp32")
    return Finding(
        "precision",
        "ok",
        value,
        f"bf16 would be chosen from {WORTH_IT:g} times on: this processor has no fast products for it",
    )
