"""Words are broken between, never within, whatever the pieces and the width; nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.console.wrap import Wrapper, width_of

PARTS = st.sampled_from(
    ["word", "a", "incomprehensibilities", "漢字", "e\u0301", "👩🏽\u200d🌾", "🇩🇪", "、", " ", "  ", "\n", "\t", "-"]
)


def wrapped(text: str, width: int, size: int = 1, column: int = 0) -> str:
    wrapper = Wrapper(lambda: width, column)
    return "".join(wrapper.push(text[i : i + size]) for i in range(0, len(text), size)) + wrapper.end()


@given(st.lists(PARTS, max_size=30).map("".join), st.integers(8, 40), st.integers(1, 9))
def test_no_line_is_too_wide_and_no_character_is_lost(text: str, width: int, size: int) -> None:
    out = wrapped(text, width, size)
    assert out == wrapped(text, width, len(text) or 1)  # the pieces make no difference
    assert all(width_of(line) <= width for line in out.split("\n"))
    assert "".join(out.split()) == "".join(text.split())


@given(st.lists(st.text("abc", min_size=1, max_size=8), min_size=1), st.integers(8, 40))
def test_words_that_fit_on_a_line_stay_whole(words: list[str], width: int) -> None:
    assert wrapped(" ".join(words), width).split() == words


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("漢字かな交じり文", 8, ["漢字かな", "交じり文"]),
        ("漢字かな、交じり", 8, ["漢字か", "な、交じ", "り"]),  # no line begins with a comma
        ("「漢字」", 5, ["「漢", "字」"]),
        ("ab 👩🏽\u200d🌾 cd", 8, ["ab", "👩🏽\u200d🌾", "cd"]),  # a joined emoji is never cut
        ("e\u0301" * 10, 8, ["e\u0301" * 8, "e\u0301" * 2]),
        ("x" * 20, 8, ["x" * 8, "x" * 8, "x" * 4]),
        ("one\n\n    two three", 10, ["one", "", "    two", "three"]),  # what is indented stays so
    ],
)
def test_lines_end_where_a_reader_expects_it(text: str, width: int, lines: list[str]) -> None:
    assert wrapped(text, width).split("\n") == lines


def test_a_window_that_becomes_narrow_is_noticed_at_the_next_word() -> None:
    width = 80
    wrapper = Wrapper(lambda: width, 6)
    out = wrapper.push("one two three four five six seven eight nine ten ")
    width = 40
    out += wrapper.push("eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen") + wrapper.end()
    first, *rest = out.split("\n")
    assert first == "one two three four five six seven eight nine ten"
    assert all(width_of(line) <= 40 for line in rest)
    assert len(rest) == 2
