"""Numbers as block characters: sparks, bars with a sign, shades.

In: numbers. Out: text that says the same with colour and without.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

HEIGHTS = " ▁▂▃▄▅▆▇█"
PARTS = " ▏▎▍▌▋▊▉█"
POSITIVE, NEGATIVE = "cyan", "red"


def spark(values: Sequence[float], high: float | None = None) -> str:
    """Return a block for each value, as high as its share of `high` (of the largest, if not given)."""
    high = high or max((abs(value) for value in values), default=0.0) or 1.0
    return "".join(height(value / high) for value in values)


def height(share: float) -> str:
    """Return a block for a share; what is more than nothing shows, and NaN is a question mark."""
    if share != share:
        return "?"
    share = min(1.0, max(0.0, share))
    return HEIGHTS[max(1 if share > 0.02 else 0, round(share * 8))]


def bar(value: float, reach: float, width: int = 20) -> Text:
    """Return a bar to the right of an axis, or to the left where the value is below 0; `reach` is a whole half."""
    half = (width - 1) // 2
    share = min(1.0, abs(value) / (reach or 1.0))
    whole, rest = divmod(round(share * half * 8), 8)
    if value >= 0:
        drawn = "█" * whole + (PARTS[rest] if rest else "")
        return Text(" " * half + "│", style="dim").append(drawn.ljust(half), style=POSITIVE)
    drawn = ("▐" if rest >= 4 else "") + "█" * whole
    return Text("", style="dim").append(drawn.rjust(half), style=NEGATIVE).append("│" + " " * half, style="dim")


def signed(value: float) -> Text:
    """Return a block for a share from -1 to 1, coloured by its sign; below 0 it is marked by a line where it stands
    alone: the colour and the number beside it tell."""
    return Text(height(abs(value)), style=POSITIVE if value >= 0 else NEGATIVE)
