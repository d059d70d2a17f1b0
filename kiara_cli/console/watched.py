"""Statistics of a run in the terminal: a line for each layer, with its course in blocks.

In: what was recorded. Out: stdout.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence

from rich.text import Text

from kiara_cli.console import output
from kiara_cli.console.blocks import HEIGHTS
from kiara_cli.core.lab.watched import Watched

COLUMNS = 40  # blocks of a course, at most


def show_watched(kinds: Sequence[Watched]) -> None:
    """Print each kind of number: place, course, first and last value. All courses of a kind share one scale."""
    terminal = output.console(sys.stdout)
    width = min(terminal.width, 120) if terminal.is_terminal else 100
    printer = output.console(sys.stdout, width=width)
    for kind in kinds:
        values = [value for course in kind.places.values() for _, value in course]
        low, high = min(values), max(values)
        steps = [step for course in kind.places.values() for step, _ in course]
        output.result("")
        printer.print(Text(f"{kind.title}, steps {min(steps):,} to {max(steps):,}, {low:.3g} to {high:.3g}", "bold"))
        names = max(map(len, kind.places))
        for place, course in kind.places.items():
            blocks = _blocks([kind.drawn(value) for _, value in course], [kind.drawn(low), kind.drawn(high)])
            text = Text(f"{place:{names}}  ", no_wrap=True, overflow="ellipsis")
            text.append(f"{blocks:{min(COLUMNS, max(map(len, kind.places.values())))}}", "cyan")
            printer.print(text.append(f"  {course[0][1]:>9.3g} → {course[-1][1]:<9.3g}".rstrip()))


def _blocks(values: Sequence[float], ends: Sequence[float]) -> str:
    """Return a course as blocks between two heights; of a long one the mean of what shares a column."""
    count, span = min(COLUMNS, len(values)), (ends[1] - ends[0]) or 1.0
    bounds = [len(values) * column // count for column in range(count + 1)]
    means = [sum(values[first:last]) / (last - first) for first, last in itertools.pairwise(bounds)]
    return "".join(HEIGHTS[1 + round((len(HEIGHTS) - 2) * (mean - ends[0]) / span)] for mean in means)
