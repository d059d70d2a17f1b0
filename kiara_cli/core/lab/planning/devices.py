"""Machines that a training may be planned for, as their makers describe them.

In: a name. Out: `Device`. Every number comes from the maker's data sheet unless it is marked; prices are what was
asked for in May 2026, and all of them can be given by whoever plans.

| number | source |
|---|---|
| FLOP/s (dense, no sparsity; fp32 without TF32), memory, bytes/s, links, watts of NVIDIA's | data sheets: H100 and H200 SXM, A100 80GB SXM, L40S, L4, T4, V100 SXM2 32GB; GeForce from the Ampere, Ada and Blackwell whitepapers |
| FLOP/s and watts of Apple's | guesses: Apple states cores and bytes/s alone; fp32 from cores × clock |
| bytes/s to other machines | 50 GB/s a device where servers have InfiniBand NDR (400 Gb/s), 1.25 GB/s (10 Gb/s Ethernet) elsewhere: guesses |
| dollars an hour | the middle of what specialised providers asked for on demand, mercatus-ai.com/blog/cloud-gpu-pricing, May 2026; none: not looked up |
"""  # noqa: E501 - a table

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from kiara_cli.config.schema import Device as Kind
from kiara_cli.config.schema import Dtype
from kiara_cli.errors import KiaraError

THIS = "this"


@dataclass(frozen=True)
class Device:
    """One accelerator, or one machine."""

    name: str
    kind: Kind  # what PyTorch calls it: cuda, mps
    flops: Mapping[str, float]  # of products a second, by dtype
    memory: float  # bytes
    bandwidth: float  # bytes a second from memory
    link: float  # bytes a second to the others in its machine, one way
    network: float  # bytes a second to other machines, one way
    together: int  # so many in a machine
    watts: float
    price: float | None = None  # dollars an hour

    @property
    def dtype(self) -> Dtype:
        """What runtime.dtype=auto is there: bf16 where the chip has it."""
        return "bf16" if "bf16" in self.flops else "fp32"


def _nvidia(
    name: str, half: float, single: float, memory: float, bandwidth: float, link: float, watts: float,
    price: float | None = None, network: float = 1.25e9, together: int = 8, bf16: bool = True,
) -> Device:  # fmt: skip
    flops = {"bf16" if bf16 else "fp16": half * 1e12, "fp32": single * 1e12} | ({"fp16": half * 1e12})
    return Device(name, "cuda", flops, memory * 1e9, bandwidth * 1e9, link * 1e9, network, together, watts, price)


def _apple(name: str, single: float, memory: float, bandwidth: float, watts: float) -> Device:
    flops = {"fp32": single * 1e12, "fp16": single * 1e12, "bf16": single * 1e12}
    return Device(name, "mps", flops, memory * 1e9, bandwidth * 1e9, 1.25e9, 1.25e9, 1, watts)


DEVICES = {
    "h200": _nvidia("NVIDIA H200 SXM", 989, 67, 141, 4800, 450, 700, 4.0, 50e9),
    "h100": _nvidia("NVIDIA H100 SXM", 989, 67, 80, 3350, 450, 700, 3.0, 50e9),
    "a100": _nvidia("NVIDIA A100 80GB SXM", 312, 19.5, 80, 2039, 300, 400, 1.3, 25e9),
    "l40s": _nvidia("NVIDIA L40S", 362, 91.6, 48, 864, 32, 350),
    "l4": _nvidia("NVIDIA L4", 121, 30.3, 24, 300, 32, 72),
    "t4": _nvidia("NVIDIA T4", 65, 8.1, 16, 320, 16, 70, bf16=False),
    "v100": _nvidia("NVIDIA V100 SXM2 32GB", 125, 15.7, 32, 900, 150, 300, bf16=False),
    "5090": _nvidia("GeForce RTX 5090", 209.5, 104.8, 32, 1792, 64, 575, together=4),
    "4090": _nvidia("GeForce RTX 4090", 165.2, 82.6, 24, 1008, 32, 450, together=4),
    "3090": _nvidia("GeForce RTX 3090", 71, 35.6, 24, 936, 32, 350, together=4),
    "m3": _apple("Apple M3, 10 GPU cores", 3.6, 16, 100, 20),
    "m3-max": _apple("Apple M3 Max, 40 GPU cores", 14.2, 64, 400, 60),
    "m4": _apple("Apple M4, 10 GPU cores", 4.3, 16, 120, 22),
    "m4-max": _apple("Apple M4 Max, 40 GPU cores", 17.2, 64, 546, 65),
}


def device_named(name: str) -> Device | None:
    """Return a device by name; None: this machine. Raises KiaraError listing those that are known."""
    if name == THIS:
        return None
    if (found := DEVICES.get(name.lower())) is not None:
        return found
    near = difflib.get_close_matches(name.lower(), [THIS, *DEVICES], 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise KiaraError(f"--device {name} is not known{meant}", f"choose among: {', '.join([THIS, *DEVICES])}")
