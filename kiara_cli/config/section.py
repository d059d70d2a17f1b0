"""What the sections of a config are made of: settings with a default and a range.

In: the default and the limits of a setting. Out: a field of a dataclass, and `Section`, which checks the values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, ClassVar

from kiara_cli.errors import KiaraError

LARGEST = 2**63 - 1  # whole number
DERIVED = 0  # of a setting declared with `derived`: not given, so the section works it out from the others


def knob(default: Any, low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """Declare a setting with its range: low <= value <= high, or above < value."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


def derived(low: float | None = None, above: float | None = None) -> Any:
    """Declare a setting that follows from others unless it is given (null in YAML: not given)."""
    return field(default=DERIVED, metadata={"low": low, "high": None, "above": above, "derived": True})


class Section:
    """Check every value against the range its field declares. Raises KiaraError."""

    section: ClassVar[str]

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            given = value if "derived" not in item.metadata else value or None
            if isinstance(given, int | float) and item.metadata:
                self._check(item.name, given, item.metadata)

    def _check(self, key: str, value: float, allowed: Mapping[str, Any]) -> None:
        path = f"{self.section}.{key}"
        low, high, above = allowed["low"], allowed["high"], allowed["above"]
        if not math.isfinite(value):
            raise KiaraError(f"{path}={value} is not a finite number", "give a finite value", key=path)
        if above is not None and value <= above:
            raise KiaraError(f"{path}={value} is out of range", f"it must be above {above}", key=path)
        if isinstance(value, int) and value > LARGEST:
            high = min(LARGEST, high or LARGEST)
        nearest = max(value, low) if low is not None else value
        nearest = min(nearest, high) if high is not None else nearest
        if nearest != value:
            limits = f"from {low} to {high}" if high is not None else f"at least {low}"
            raise KiaraError(
                f"{path}={value} is out of range", f"it must be {limits}, the nearest is {nearest}", key=path
            )
