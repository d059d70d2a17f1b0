from __future__ import annotations

from collections.abc import Sequence

import pytest

from kiara_cli.console.plots import LABEL, MARK, curves

STYLES = "cyan", "green"


def drawn(line: list[float], marks: Sequence[float] = (), width: int = 30, height: int = 5) -> list[str]:
    rows = curves(list(enumerate(line)), list(enumerate(marks)), width, height, STYLES)
    return [row.plain for row in rows]


def inked(row: str) -> list[int]:
    """Return the columns of a row that hold a dot."""
    return [index for index, character in enumerate(row[LABEL + 1 :]) if 0x2800 < ord(character) < 0x2900]


def test_a_falling_line_goes_from_top_left_to_bottom_right() -> None:
    rows = drawn([float(9 - index) for index in range(10)])
    assert 0 in inked(rows[0])
    assert max(inked(rows[-1])) == 30 - LABEL - 2
    tops = [min(index for index, row in enumerate(rows) if column in inked(row)) for column in inked(rows[2])]
    assert tops == sorted(tops)


def test_every_column_between_two_points_is_inked() -> None:
    rows = drawn([1.0, 0.0])
    columns = {column for row in rows for column in inked(row)}
    assert columns == set(range(30 - LABEL - 1))


def test_the_range_stands_at_the_left_and_a_high_start_does_not_flatten_the_rest() -> None:
    rows = drawn([100.0, *[2.0] * 4, *[1.0] * 5])
    assert rows[0].split()[0] == "2"
    assert rows[-1].split()[0] == "1"


def test_marks_stand_where_their_values_are() -> None:
    rows = drawn([2.0, 1.0], marks=[2.0, 1.0])
    assert rows[0][LABEL + 1] == MARK
    assert rows[-1][-1] == MARK


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0], [0.0, 0.0], [1e-12, 1e12]])
@pytest.mark.parametrize(("width", "height"), [(3, 1), (10, 3), (200, 40)])
def test_any_values_fit_any_size(values: list[float], width: int, height: int) -> None:
    rows = drawn(values, marks=values, width=width, height=height)
    assert len(rows) == height
    assert all(len(row) <= max(width, LABEL + 3) for row in rows)
