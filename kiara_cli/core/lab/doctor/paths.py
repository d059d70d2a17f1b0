"""Every fast path of Kiara: on, or off and why. Each is built and compared with plain PyTorch, as a run would do it.

In: a host, with torch working. Out: findings.
"""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Iterator

import torch
from torch import nn

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.generate.engine import Engine, Options
from kiara_cli.core.lab.doctor.finding import Finding, Host, Level
from kiara_cli.core.lab.doctor.trial import Outcome, Trial
from kiara_cli.core.model import fused
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize import apply
from kiara_cli.core.quantize.layers import QuantizedLinear, pack
from kiara_cli.core.quantize.scheme import Scheme
from kiara_cli.core.runtime.device import Runtime, decide
from kiara_cli.core.runtime.native import try_compilers
from kiara_cli.core.runtime.pressure import read_pressure
from kiara_cli.errors import KiaraError

SMALL = ModelConfig(vocab_size=64, context_length=32, emb_dim=64, n_heads=2, n_layers=1)
GET_COMPILER = "install one: apt install gcc, dnf install gcc, xcode-select --install (macOS)"
NEEDS_COMPILER = "it needs a C compiler; if one works above, please report this"
COMPILE = """
import torch
from kiara_cli.core.runtime.compile import broken_toolchain
print(broken_toolchain(torch.device({device!r})) or "")
"""


def look_at_paths(host: Host) -> Iterator[Finding]:
    """Look at compilers, C in decoding and in training, torch.compile, threads, several processes."""
    try:
        runtime = decide(host.runtime)
    except KiaraError:  # said before
        return
    trial = _start_compiling(host, runtime.device.type)
    try:
        yield from _compilers()
        yield from _decoding(host, runtime)
        yield _training(host, runtime)
        yield _compile(host, trial)
    finally:
        if trial is not None:
            trial.end()
    yield _adaptive(host, runtime)
    yield _ranks()


def _compilers() -> Iterator[Finding]:
    meaning = "makes Kiara's C code for this processor, once; the library is kept in the cache"
    found = list(try_compilers())
    works = [name for name, fault in found if fault is None]
    for name, fault in found:
        if fault is None:
            yield Finding("C compiler", "ok", f"{name} makes a parallel library that works", meaning)
        else:
            yield Finding("C compiler", "off" if works else "warning", f"{name}: {fault}", meaning, GET_COMPILER)
    if not found:
        yield Finding("C compiler", "warning", "there is none", f"one {meaning}", GET_COMPILER)


def _decoding(host: Host, runtime: Runtime) -> Iterator[Finding]:
    """Have a small model write, in full and with quantized weights, and say what computes it."""
    model = Transformer(SMALL).to(runtime.device)
    for name, bits in ((f"writing in {runtime.dtype}", 16), ("writing in 8 bits", 8), ("writing in 4 bits", 4)):
        small = copy.deepcopy(model)
        if bits < 16:
            for _ in apply.quantize(small, Scheme(bits, "rtn", 32, bits, bits)):
                pass
        try:
            how = Engine(small, runtime, options=Options(1, native=host.runtime.native)).backend
        except KiaraError as error:  # runtime.native=true
            yield Finding(name, "broken", error.cause, "generate, chat and serve stop here", error.remedy)
            continue
        if how.compiled is not None:
            value = f"on: a decode step is one call of C, made by {how.compiled.library.compiler}"
            yield Finding(name, "ok", value, "its scores were compared with torch's")
        else:
            level, remedy = _off(host, runtime)
            rest = f"; {_by_codes(small)}" if bits < 16 else ""
            yield Finding(
                name, level, f"off: {how.name}{rest}", "generate, chat and serve are slower, not other", remedy
            )


def _off(host: Host, runtime: Runtime) -> tuple[Level, str]:
    """Return how bad it is that C does not run, and what to do."""
    if runtime.device.type != "cpu":
        return "off", ""
    if host.runtime.native is False:
        return "off", "leave out runtime.native=false"
    return "warning", NEEDS_COMPILER


def _by_codes(model: nn.Module) -> str:
    """Say how quantized matrices are multiplied where the decode step is not C."""
    packs = all(pack(layer) for layer in model.modules() if isinstance(layer, QuantizedLinear))
    return "torch's product with codes is used" if packs else "the full matrix is made anew for each product"


def _training(host: Host, runtime: Runtime) -> Finding:
    name, meaning = (
        "training loops in C",
        "norms, heads, gates and softmaxes in one pass over memory instead of five or more",
    )
    fuses, why = fused.decide_fused(host.runtime, runtime)
    fault = fused.loops_fault(SMALL, fused.load()) if fuses else None
    if fault is not None:
        return Finding(
            name, "warning", f"off: {fault}", meaning, "please report it, with the processor and compiler above"
        )
    if fuses:
        return Finding(name, "ok", "on: they compute what torch computes", meaning)
    needs_compiler = "compiler" in why
    return Finding(
        name, "warning" if needs_compiler else "off", f"off: {why}", meaning, NEEDS_COMPILER if needs_compiler else ""
    )


def _start_compiling(host: Host, device: str) -> Trial | None:
    """Begin to compile a small function, beside the other checks; None: there is no compiler for it."""
    if device == "cpu" and shutil.which(_cxx(host)) is None:
        return None
    alone = {**host.environment, "TORCHINDUCTOR_COMPILE_THREADS": "1"}  # its pool of processes would outlive it
    return Trial(COMPILE.format(device=device), alone)


def _cxx(host: Host) -> str:
    """Name the compiler that torch.compile takes."""
    return host.environment.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")


def _compile(host: Host, trial: Trial | None) -> Finding:
    name, meaning = "torch.compile", "used for long trainings without C loops (runtime.compile=true forces it)"
    level: Level = "warning" if host.runtime.compile is True else "off"
    outcome = trial.outcome(host.seconds_left) if trial else Outcome(failure=f"there is no {_cxx(host)}")
    if not outcome.finished:
        value = "not known: compiling a small function takes longer than this look"
        return Finding(name, "off", value, meaning, "a training that is to compile tries it, and waits")
    failure = outcome.failure or outcome.printed
    if failure:
        return Finding(
            name,
            level,
            f"off: {failure}",
            meaning,
            "it needs a C++ compiler (g++ or clang++) and Python's headers (python3-dev)",
        )
    return Finding(name, "ok", "on: a small function was compiled and is right", meaning)


def _adaptive(host: Host, runtime: Runtime) -> Finding:
    name, meaning = "adaptive threads", "fewer threads while other programs use the cores, and more again"
    if runtime.adaptive and runtime.threads > 1:
        exact = read_pressure().free is not None
        return Finding(
            name,
            "ok",
            f"on, from 1 to {runtime.threads}: the system says who waits"
            if exact
            else f"on, from 1 to {runtime.threads}: who waits is estimated",
            meaning,
        )
    if host.runtime.threads != "auto":
        return Finding(name, "off", f"off: runtime.threads={host.runtime.threads}", meaning, "runtime.threads=auto")
    why = "there is one thread" if runtime.threads == 1 else f"the device is {runtime.device.type}"
    return Finding(name, "off", f"off: {why}", meaning)


def _ranks() -> Finding:
    meaning = "torchrun: one training over several processes or machines"
    if not torch.distributed.is_available():
        return Finding("several processes", "off", "this build of torch cannot", meaning)
    has = {"gloo": torch.distributed.is_gloo_available(), "nccl": torch.distributed.is_nccl_available()}
    return Finding("several processes", "ok", ", ".join(name for name, there in has.items() if there), meaning)
