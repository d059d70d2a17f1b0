"""A document → chunks: pieces that respect headings and sentences, with overlap, each with the lines it stands on.

In: sections, which never share a chunk: a heading path and numbered lines. Out: chunks of at most `Cutting.chars`
characters. A chunk ends at the end of a paragraph or a sentence where one is near, else at a space.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

ENDS = re.compile(  # what stands between two pieces: a sentence ends, a blank line, an item or a row begins
    r"(?:(?<=[.!?…])|(?<=[.!?…][\"'”’)\]]))\s+(?=\S)|(?<=[。！？])|\n[ \t]*\n+|\n(?=[ \t]*(?:[-*+|>]|\d+[.)])[ \t])"
)

BLANK = re.compile(r"\n(?:[ \t]*\n)+")


@dataclass(frozen=True)
class Cutting:
    """How documents are cut: how long chunks are and how much the next one repeats, in characters."""

    chars: int = 600
    overlap: int = 100
    pdf_command: str | None = None  # what turns a PDF into text


Lines: TypeAlias = list[tuple[int, str]]  # (number, text)


@dataclass(frozen=True)
class Section:
    """Lines under one heading; `by_lines`: they are lines of code, where no sentence ends."""

    heading: tuple[str, ...]
    lines: tuple[tuple[int, str], ...]  # (number, text)
    by_lines: bool = False


@dataclass(frozen=True)
class Chunk:
    text: str
    heading: tuple[str, ...]
    first_line: int
    last_line: int


def cut(sections: Iterable[Section], cutting: Cutting) -> Iterator[Chunk]:
    """Yield the chunks of a document in order; blank sections have none."""
    for section in sections:
        text = "\n".join(line for _, line in section.lines)
        starts, at = [], 0
        for _, line in section.lines:
            starts.append(at)
            at += len(line) + 1
        for start, end in _spans(text, section.by_lines, cutting):
            first, last = (bisect_right(starts, place) - 1 for place in (start, end - 1))
            yield Chunk(text[start:end], section.heading, section.lines[first][0], section.lines[last][0])


def _spans(text: str, by_lines: bool, cutting: Cutting) -> Iterator[tuple[int, int]]:
    """Yield where chunks begin and end, without the blank space around them."""
    pieces = list(_pieces(text, by_lines, cutting.chars))
    first = 0
    while first < len(pieces):
        last = first
        while last + 1 < len(pieces) and pieces[last + 1][1] - pieces[first][0] <= cutting.chars:
            last += 1
        yield pieces[first][0], pieces[last][1]
        if last + 1 == len(pieces):
            return
        following = last + 1
        while following - 1 > first and pieces[last][1] - pieces[following - 1][0] <= cutting.overlap:
            following -= 1
        while pieces[last + 1][1] - pieces[following][0] > cutting.chars:  # else the next one would hold nothing new
            following += 1
        first = following


def _pieces(text: str, by_lines: bool, longest: int) -> Iterator[tuple[int, int]]:
    """Yield where sentences begin and end, or blocks between blank lines; what is longer than a chunk is cut.

    Code is cut between two lines, and what else there is between two words.
    """
    breaks = (BLANK if by_lines else ENDS).finditer(text)
    marks = ("\n", " ") if by_lines else (" \n",)
    start = 0
    for end, following in [*((match.start(), match.end()) for match in breaks), (len(text), len(text))]:
        while end - start > longest:
            middle = start + longest
            for mark in marks:
                space = max(text.rfind(one, start + 1, start + longest + 1) for one in mark)
                if space > start and text[start:space].strip():
                    middle = space
                    break
            yield from _stripped(text, start, middle, by_lines)
            start = middle
        yield from _stripped(text, start, end, by_lines)
        start = following


def _stripped(text: str, start: int, end: int, by_lines: bool) -> Iterator[tuple[int, int]]:
    """Yield a span without the blank space around it, unless there is nothing else; code keeps its indentation."""
    piece = text[start:end]
    if piece.strip():
        begin = piece.lstrip("\n") if by_lines else piece.lstrip()
        yield end - len(begin), start + len(piece.rstrip())
