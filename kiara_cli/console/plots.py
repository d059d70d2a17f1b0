"""Curves in characters.

In: numbers over steps. Out: rows of text: braille dots for a line, a mark for single points, the range at the left.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rich.text import Text

from kiara_cli.console.output import amount

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # the bits of a braille cell: 4 rows of 2
MARK = "◆"
LABEL = 9  # characters of the range at the left

Points = Sequence[tuple[float, float]]


def curves(line: Points, marks: Points, width: int, height: int, styles: tuple[str, str]) -> list[Text]:
    """Draw a line and, over it, marks, on one scale; rows of `width` characters, the highest value in the first.

    What leaves the range of the line's later three quarters is cut off: a first loss would flatten all the rest.
    """
    width = max(2, width - LABEL - 1)
    ys = [y for _, y in [*line[len(line) // 4 :], *marks]]
    low, high = min(ys), max(ys)
    last = max(x for x, _ in [*line, *marks]) or 1.0
    span = (high - low) or max(abs(high), 1e-9)

    def place(x: float, y: float, columns: int, rows: int) -> tuple[int, int]:
        """Return row and column of a point."""
        across, down = min(1.0, x / last), min(1.0, max(0.0, (high - y) / span))
        return round(down * (rows - 1)), round(across * (columns - 1))

    cells = [[0] * width for _ in range(height)]
    dots = [place(x, y, 2 * width, 4 * height) for x, y in line]
    for (row, column), (next_row, next_column) in itertools.pairwise(dots or [(0, 0)]):
        for row_at, column_at in _between(row, column, next_row, next_column):
            cells[row_at // 4][column_at // 2] |= DOTS[row_at % 4][column_at % 2]
    over = {place(x, y, width, height) for x, y in marks}

    rows = []
    for index in range(height):
        label = f"{high:.4g}" if index == 0 else f"{low:.4g}" if index == height - 1 else ""
        text = Text(f"{label:>{LABEL}} ", style="dim", no_wrap=True)
        for column in range(width):
            marked = (index, column) in over
            text.append(MARK if marked else chr(0x2800 + cells[index][column]), styles[1] if marked else styles[0])
        rows.append(text)
    return rows


def _between(row: int, column: int, next_row: int, next_column: int) -> list[tuple[int, int]]:
    """List the dots of a straight line."""
    steps = max(abs(next_row - row), abs(next_column - column), 1)
    return [
        (
            row + round((next_row - row) * step / steps),
            column + round((next_column - column) * step / steps),
        )
        for step in range(steps + 1)
    ]


def lines(series: Sequence[Points], width: int, height: int, styles: Sequence[str]) -> list[Text]:
    """Draw lines on one scale, each in its style; of several, each ends in its letter. The last row is the x axis.

    As in `curves`, what leaves the range of the later three quarters is cut off.
    """
    width = max(4, width - LABEL - 1)
    xs = [x for points in series for x, _ in points]
    ys = [y for points in series for _, y in points[len(points) // 4 :]]
    left, low, high = min(xs), min(ys), max(ys)
    across, span = (max(xs) - left) or 1.0, (high - low) or max(abs(high), 1e-9)

    def place(x: float, y: float, columns: int, rows: int) -> tuple[int, int]:
        down = min(1.0, max(0.0, (high - y) / span))
        return round(down * (rows - 1)), round((x - left) / across * (columns - 1))

    cells = [[0] * width for _ in range(height)]
    owners = [[0] * width for _ in range(height)]
    letters: dict[tuple[int, int], int] = {}
    for index, points in enumerate(series):
        dots = [place(x, y, 2 * width, 4 * height) for x, y in points]
        for (row, column), (next_row, next_column) in itertools.pairwise(dots if len(dots) > 1 else dots * 2):
            for row_at, column_at in _between(row, column, next_row, next_column):
                cells[row_at // 4][column_at // 2] |= DOTS[row_at % 4][column_at % 2]
                owners[row_at // 4][column_at // 2] = index
        if len(series) > 1:
            row, column = place(*points[-1], width, height)
            while (row, column) in letters and column:
                column -= 1
            letters[row, column] = index

    rows = []
    for row in range(height):
        label = f"{high:.4g}" if row == 0 else f"{low:.4g}" if row == height - 1 else ""
        text = Text(f"{label:>{LABEL}} ", style="dim", no_wrap=True)
        for column in range(width):
            letter = letters.get((row, column))
            owner = owners[row][column] if letter is None else letter
            sign = chr(0x2800 + cells[row][column]) if letter is None else letter_of(letter)
            text.append(sign, styles[owner % len(styles)])
        rows.append(text)
    ends = left, left + across
    first, last = (amount(x) if abs(x) >= 1e5 else f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}" for x in ends)
    return [*rows, Text(f"{'':{LABEL}} {first}{last:>{max(1, width - len(first))}}", style="dim", no_wrap=True)]


def letter_of(index: int) -> str:
    """Return the letter of a line: a to z, then A to Z, then all others *."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return letters[index] if index < len(letters) else "*"
