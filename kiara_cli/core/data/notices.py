"""What a person should know of what was read, said once however many files it holds for.

In: remarks and the places they hold for. Out: one line for each remark, with the first places and how many more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

SHOWN = 3  # places of a remark that are named


@dataclass
class Notices:
    """Remarks in the order of their first place."""

    places: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, remark: str, place: str, count: int = 1) -> None:
        """Note that a remark holds for a place."""
        named = self.places.setdefault(remark, [])
        if len(named) < SHOWN:
            named.append(place)
        self.counts[remark] = self.counts.get(remark, 0) + count

    def merge(self, state: Iterable[Any]) -> None:
        """Add what `state` returned of others."""
        for remark, named, count in state:
            known = self.places.setdefault(remark, [])
            known += named[: SHOWN - len(known)]
            self.counts[remark] = self.counts.get(remark, 0) + count

    def state(self) -> list[tuple[str, list[str], int]]:
        """Return all there is to it as JSON values."""
        return [(remark, named, self.counts[remark]) for remark, named in self.places.items()]

    def lines(self) -> list[str]:
        """Return a line for each remark: `left out, as they are binary: a.txt, b.txt, c.txt and 9 more`."""
        lines = []
        for remark, named in self.places.items():
            more = self.counts[remark] - len(named)
            lines.append(f"{remark}: {', '.join(named)}{f' and {more:,} more' if more else ''}")
        return lines
