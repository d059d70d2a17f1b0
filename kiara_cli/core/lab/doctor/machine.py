"""The machine as its system describes it: processor, cores, quota, memory. Nothing here needs torch.

In: a host. Out: findings.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator

from kiara_cli.core.lab.doctor.finding import Finding, Host, size
from kiara_cli.core.runtime.memory import Memory, read_memory
from kiara_cli.core.runtime.pressure import read_pressure
from kiara_cli.core.runtime.processor import FEATURES, processor_features, processor_name
from kiara_cli.core.runtime.threads import allowed_cpus, allowed_threads, cpu_quota, physical_cores

LEAST = 500_000_000  # bytes: a training of one layer on a few kB took 410 MB (torch alone 250)
USUAL = 1_000_000_000  # the default model's training: about 400 MB (the plan) beside torch and the data
LISTEN = 0.4  # seconds for which other programs are watched
BUSY = 0.5  # cores' time of others from which on measurements are said to be too low


def look_at_machine(host: Host) -> Iterator[Finding]:
    """Look at what is there and what of it this process may use."""
    yield _processor()
    yield from _cores(host)
    yield memory_finding(read_memory(host.proc, host.cgroups))
    yield from _others()


def _processor() -> Finding:
    features = processor_features()
    value = f"{processor_name()} ({platform.machine()}, {platform.system()} {platform.release()})"
    if not features:
        return Finding("processor", "ok", value, "its instructions are not told by this system")
    meaning = "; ".join(f"{feature}: {FEATURES[feature]}" for feature in features)
    if platform.machine() in ("x86_64", "AMD64") and "avx2" not in features:
        return Finding(
            "processor",
            "warning",
            value,
            f"without AVX2 products are slow ({meaning})",
            "a virtual machine may hide it: let it pass the host's processor through",
        )
    return Finding("processor", "ok", value, meaning)


def _cores(host: Host) -> Iterator[Finding]:
    cpus = allowed_cpus()
    cores, quota = physical_cores(cpus), cpu_quota(host.proc, host.cgroups)
    one = f"{cores} core{'s' if cores > 1 else ''}, {len(cpus)} hardware thread{'s' if len(cpus) > 1 else ''}"
    yield Finding("cores", "ok", one, "that this process may run on; training computes on one thread a core")
    if quota is None:
        yield Finding("CPU quota", "ok", "none", "no control group takes time away")
    elif quota >= cores:
        yield Finding("CPU quota", "ok", f"{quota:g} cores", "as much as there is")
    else:
        threads = allowed_threads(None, proc=host.proc, cgroups=host.cgroups).threads
        yield Finding(
            "CPU quota",
            "warning",
            f"{quota:g} of {cores} cores",
            f"this container or job gets no more; Kiara computes on {threads} thread{'s' if threads > 1 else ''}",
            "give it more if it is to be faster (docker run --cpus, resources.limits.cpu)",
        )


def memory_finding(memory: Memory) -> Finding:
    """Judge whether a model can be trained in what this process can have."""
    known = [f"{size(memory.total)} in the machine"] if memory.total is not None else []
    if memory.limit is not None:
        known.append(f"at most {size(memory.limit)} by {memory.limited_by}")
    if memory.available is not None:
        known.append(f"{size(memory.available)} free")
    value = ", ".join(known) or "not told by this system"
    free = memory.available if memory.available is not None else memory.most
    remedy = "close other programs, or give the container more"
    if free is not None and free < LEAST:
        return Finding("memory", "broken", value, f"even a tiny training takes {size(LEAST)}", remedy)
    if free is not None and free < USUAL:
        return Finding(
            "memory",
            "warning",
            value,
            f"the default model's training takes about {size(USUAL)}; small ones fit",
            f"kiara train -c small, or {remedy}",
        )
    return Finding(
        "memory", "ok", value, "enough for the default model; kiara train --dry-run says what another takes"
    )


def _others() -> Iterator[Finding]:
    """Watch for a moment how much of the cores other programs use."""
    before = read_pressure()
    time.sleep(LISTEN)
    _, free = read_pressure().since(before)
    if free is None:
        return
    cores = len(allowed_cpus())
    used = max(0.0, cores - free)
    value = f"use {used:.1f} of {cores} hardware threads"
    if used < BUSY:
        yield Finding("other programs", "ok", value, "what is measured below is this machine's own")
    else:
        yield Finding(
            "other programs",
            "warning",
            value,
            "training is slower meanwhile, and what is measured below is too low",
            "look again when the machine is quiet",
        )
