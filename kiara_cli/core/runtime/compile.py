"""Whether to compile: only where the toolchain works and the run is long enough to earn it.

In: what the config says, and how long the run will take. Out: yes or no, and the reason in one line.
"""

from __future__ import annotations

import warnings

import torch

COST = 40.0  # seconds that compiling a model takes (20 to 37 measured, 6 layers, 2 cores)
GAIN = {"cpu": 0.06, "cuda": 0.3, "mps": 0.0}  # share of the time saved (CPU: measured with bf16; CUDA: a guess)


def decide_compile(wanted: bool | str, device: torch.device, seconds: float) -> tuple[bool, str]:
    """Decide runtime.compile for a training that takes about `seconds` without it.

    The toolchain is tried only where compiling would be used.
    """
    if wanted is False:
        return False, "runtime.compile=false"
    saved = GAIN[device.type] * seconds
    if wanted == "auto" and saved < 2 * COST:
        return False, f"compiling would save about {saved:.0f} s of {seconds:.0f} and cost about {COST:.0f}"
    failure = broken_toolchain(device)
    if failure is not None:
        return False, f"the compiler does not work here: {failure}"
    return True, "the compiler works" if wanted is True else f"compiling saves about {saved:.0f} s of {seconds:.0f}"


def broken_toolchain(device: torch.device) -> str | None:
    """Compile and run one small function; return what went wrong, or None."""
    if device.type == "mps":
        return "torch.compile is not ready for MPS"

    def bend(x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x) * 2 + x.sum()

    x = torch.ones(8, device=device)
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's own, about itself
            right = torch.allclose(torch.compile(bend)(x), bend(x))
    except Exception as error:  # noqa: BLE001 - a missing compiler, Triton, header or permission: each has its own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return lines[0][:200]
    return None if right else "it computes something else"
