"""The text of a file → sections by its kind: what its headings are, and on which lines things stand.

In: a text and the kind of its file. Out: sections.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from kiara_cli.core.retrieve.chunk import Section

FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")


def numbered(text: str) -> list[tuple[int, str]]:
    return list(enumerate(text.split("\n"), 1))


def plain(text: str) -> Iterator[Section]:
    """A text without headings is one section."""
    yield Section((), tuple(numbered(text)))


def markdown(text: str) -> Iterator[Section]:
    """Yield the lines under each heading; what looks like one in a fenced block is none."""
    path: list[tuple[int, str]] = []
    held: list[tuple[int, str]] = []
    fence = ""
    for number, line in numbered(text):
        if mark := FENCE.match(line):
            if not fence:
                fence = mark[1]
            elif mark[1][0] == fence[0] and len(mark[1]) >= len(fence) and not line.strip(f" \t{fence[0]}"):
                fence = ""
        level, title = 0, ""
        if not fence and (found := ATX.match(line)):
            level, title = len(found[1]), found[2] or ""
        elif not fence and held and held[-1][1].strip() and SETEXT.match(line) and not _in_block(held):
            level, title = (1 if "=" in line else 2), held.pop()[1].strip()
        if not level:
            held.append((number, line))
            continue
        yield Section(tuple(name for _, name in path), tuple(held))
        path = [entry for entry in path if entry[0] < level] + [(level, title)]
        held = []
    yield Section(tuple(name for _, name in path), tuple(held))


def _in_block(held: list[tuple[int, str]]) -> bool:
    """Whether the line above is part of a longer paragraph, a list or a table: the line under it is a rule then."""
    above = held[-1][1].lstrip()
    return above[:1] in "-*+>|#" or (len(held) > 1 and bool(held[-2][1].strip()))


OUTLINES: dict[str, Callable[[str], Iterator[Section]]] = {"text": plain, "markdown": markdown}
