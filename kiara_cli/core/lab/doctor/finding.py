"""What a check finds, and what it is told.

In: nothing. Out: `Finding`, one line of the report; `Host`, what only the caller knows of the surroundings.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kiara_cli.config.schema import RuntimeConfig
from kiara_cli.core.runtime.control_groups import CGROUPS, PROC
from kiara_cli.errors import KiaraError

Level = Literal["ok", "off", "warning", "broken"]
SECONDS = 14.0  # that an examination may take


@dataclass(frozen=True)
class Finding:
    """One line. `ok`: as it should be; `off`: not there, and not needed; `warning`: works, but worse than it could;
    `broken`: needed, and does not work."""

    name: str
    level: Level
    value: str
    meaning: str
    remedy: str = ""
    group: str = ""


@dataclass(frozen=True)
class Host:
    """What is to be examined: the caller reads environment, streams and settings, the library does not."""

    environment: Mapping[str, str]
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    sources: tuple[str, ...] = ()  # where settings that are not defaults come from
    fault: KiaraError | None = None  # why the settings cannot be read
    data: Path = Path("data")
    runs: Path = Path("checkpoints")
    encoding: str = "utf-8"  # of stdout
    columns: int | None = None  # of the terminal; None: stdout is none
    proc: Path = PROC
    cgroups: Path = CGROUPS
    deadline: float = field(default_factory=lambda: time.monotonic() + SECONDS)

    @property
    def seconds_left(self) -> float:
        return max(1.0, self.deadline - time.monotonic())


def size(number: int) -> str:
    """Write bytes as 1.5 GB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number} B"
