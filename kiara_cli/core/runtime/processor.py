"""What the processor is and what it can do, without asking torch.

In: what the system says. Out: a name, and the instructions that decide how fast matrix products are.
"""

from __future__ import annotations

import platform
from pathlib import Path

from kiara_cli.core.runtime.control_groups import text_of

CPUINFO = Path("/proc/cpuinfo")
FEATURES = {  # as Linux names them → what they are to a matrix product
    "avx2": "products of 8 numbers at a time",
    "fma": "multiplying and adding in one",
    "avx512f": "products of 16 numbers at a time",
    "avx512_vnni": "8-bit products",
    "avx512_bf16": "bf16 products",
    "amx_bf16": "bf16 products of whole tiles",
    "amx_int8": "8-bit products of whole tiles",
    "asimd": "products of 4 numbers at a time",
    "sve": "products of wider vectors",
    "i8mm": "8-bit products",
    "bf16": "bf16 products",
}


def processor_name(cpuinfo: Path = CPUINFO) -> str:
    """Return the processor's name as the system writes it."""
    return _value("model name", cpuinfo) or platform.processor() or platform.machine()


def processor_features(cpuinfo: Path = CPUINFO) -> list[str]:
    """Return which of `FEATURES` the processor has; none where only Linux would say."""
    found = (_value("flags", cpuinfo) or _value("Features", cpuinfo) or "").split()
    return [feature for feature in FEATURES if feature in found]


def _value(name: str, cpuinfo: Path) -> str | None:
    for line in (text_of(cpuinfo) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
