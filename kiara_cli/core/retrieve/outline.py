"""The text of a file → sections by its kind: what its headings are, and on which lines things stand.

In: a text, the kind of its file, how it is cut. Out: sections.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser

from kiara_cli.core.retrieve.chunk import Cutting, Lines, Section

FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")


RULE = re.compile(r"([=\-~^\"'`#*+.:_<>])\1{2,}[ \t]*$")  # above or under a heading in reStructuredText
TITLES = {f"h{level}": level for level in range(1, 7)}
SILENT = {"script", "style", "noscript", "template", "svg", "head"}
BLOCKS = {
    "p", "div", "br", "li", "ul", "ol", "dl", "dt", "dd", "tr", "table", "pre", "blockquote", "section", "article",
    "header", "footer", "main", "nav", "aside", "figure", "figcaption", "hr", "form", *TITLES,
}  # fmt: skip


def numbered(text: str) -> Lines:
    return list(enumerate(text.split("\n"), 1))


class Path:
    """The headings above the line that is read."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []

    def begin(self, level: int, title: str) -> None:
        self._open = [*(entry for entry in self._open if entry[0] < level), (level, title)]

    def names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self._open if name)


def plain(text: str, cutting: Cutting) -> Iterator[Section]:
    """A text without headings is one section."""
    yield Section((), tuple(numbered(text)))


def markdown(text: str, cutting: Cutting) -> Iterator[Section]:
    """Yield the lines under each heading; what looks like one in a fenced block is none."""
    path, held, fence = Path(), list[tuple[int, str]](), ""
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
        yield Section(path.names(), tuple(held))
        path.begin(level, title)
        held = []
    yield Section(path.names(), tuple(held))


def _in_block(held: list[tuple[int, str]]) -> bool:
    """Whether the line above is part of a longer paragraph, a list or a table: the line under it is a rule then."""
    above = held[-1][1].lstrip()
    return above[:1] in "-*+>|#" or (len(held) > 1 and bool(held[-2][1].strip()))


def restructured(text: str, cutting: Cutting) -> Iterator[Section]:
    """Yield the lines under each heading of reStructuredText; which rule is which level is as they first come."""
    path, held, styles = Path(), list[tuple[int, str]](), list[tuple[str, bool]]()
    lines = numbered(text)
    at = 0
    while at < len(lines):
        title = lines[at][1].strip()
        under = RULE.match(lines[at + 1][1]) if at + 1 < len(lines) else None
        if not (title and under and not RULE.match(title) and len(lines[at + 1][1].rstrip()) >= len(title)):
            held.append(lines[at])
            at += 1
            continue
        over = bool(held) and held[-1][1].rstrip() == lines[at + 1][1].rstrip()
        if over:
            held.pop()
        style = (under[1], over)
        styles += [style] if style not in styles else []
        yield Section(path.names(), tuple(held))
        path.begin(styles.index(style), title)
        held, at = [], at + 2
    yield Section(path.names(), tuple(held))


class Page(HTMLParser):
    """Collects what a page shows, by the lines of its source."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.path, self.sections = Path(), list[Section]()
        self.held: list[tuple[int, str]] = []
        self._silent: list[str] = []
        self._title: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in SILENT:
            self._silent.append(tag)
        if tag in BLOCKS:
            self.held.append((self.getpos()[0], ""))
        if tag in TITLES:
            self._title = []

    def handle_endtag(self, tag: str) -> None:
        if tag in self._silent:
            del self._silent[self._silent.index(tag) :]
        if tag in TITLES and self._title is not None:
            self.end_section()
            self.path.begin(TITLES[tag], " ".join(" ".join(self._title).split()))
            self._title = None
        if tag in BLOCKS:
            self.held.append((self.getpos()[0], ""))

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        if self._title is not None:
            self._title.append(data)
            return
        for number, line in enumerate(data.split("\n"), self.getpos()[0]):
            if self.held and self.held[-1][0] == number and self.held[-1][1]:
                self.held[-1] = (number, self.held[-1][1] + line)
            elif line.strip():
                self.held.append((number, line))

    def end_section(self) -> None:
        lines = [(number, " ".join(line.split())) for number, line in self.held]
        self.sections.append(Section(self.path.names(), tuple(lines)))
        self.held = []


def html(text: str, cutting: Cutting) -> Iterator[Section]:
    """Yield what a page shows under each heading."""
    page = Page()
    page.feed(text)
    page.close()
    page.end_section()
    yield from page.sections


def code(text: str, cutting: Cutting) -> Iterator[Section]:
    """Yield source code of any language: it is cut between blank lines."""
    yield Section((), tuple(numbered(text)), by_lines=True)


def python(text: str, cutting: Cutting) -> Iterator[Section]:
    """Yield definitions, and what stands between them; of a class that is too long for a chunk each method."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        yield from code(text, cutting)
        return
    yield from _definitions(tree.body, (), numbered(text), 1, text.count("\n") + 1, cutting)


def _definitions(
    body: list[ast.stmt], names: tuple[str, ...], lines: Lines, first: int, last: int, cutting: Cutting
) -> Iterator[Section]:
    """Yield the definitions among statements that stand on the lines from first to last."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        while start > first and lines[start - 2][1].lstrip().startswith("#"):
            start -= 1  # comments right above it
        end = node.end_lineno or node.lineno
        if start < first:
            continue  # on a line with the one before
        yield Section(names, tuple(lines[first - 1 : start - 1]), by_lines=True)
        inner = (*names, node.name)
        if (
            isinstance(node, ast.ClassDef)
            and sum(len(line) + 1 for _, line in lines[start - 1 : end]) > cutting.chars
        ):
            yield from _definitions(node.body, inner, lines, start, end, cutting)
        else:
            yield Section(inner, tuple(lines[start - 1 : end]), by_lines=True)
        first = end + 1
    yield Section(names, tuple(lines[first - 1 : last]), by_lines=True)


OUTLINES: dict[str, Callable[[str, Cutting], Iterator[Section]]] = {
    "text": plain,
    "markdown": markdown,
    "restructured": restructured,
    "html": html,
    "python": python,
    "code": code,
}
