"""The sources of an answer as a person reads them: a line for each, or the passages themselves.

In: the sources that stood before a question. Out: lines. What comes from documents cannot command a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kiara_cli.console import output
from kiara_cli.core.retrieve.prompt import Grounded, Source
from kiara_cli.core.retrieve.search import vanished
from kiara_cli.core.tokenizer.passages import one_line


def cited(grounded: Grounded | None) -> Iterator[str]:
    """Yield what stands below an answer: a line for each source, or that there is none; nothing without an index."""
    if grounded is not None and not grounded.sources:
        yield "(No passage was put before this question.)"
    yield from lines(grounded.sources if grounded is not None else ())


def lines(sources: Sequence[Source]) -> Iterator[str]:
    """Yield a line for each: `[1] docs/hooks.md › Points, lines 12–30`, and what a person should know of it."""
    gone = set(vanished([source.passage for source in sources]))
    for source in sources:
        notes = ["file not found"] if source.passage.file in gone else []
        if source.text != one_line(source.passage.text):
            notes.append("read in part")
        yield output.plain(source.line + (f" ({', '.join(notes)})" if notes else ""))


def passages(grounded: Grounded) -> Iterator[str]:
    """Yield each source's line, and its passage below; then what was found besides."""
    for source, line in zip(grounded.sources, lines(grounded.sources), strict=True):
        yield line
        yield output.plain(source.passage.text.strip("\n"))
    if grounded.left_out:
        more = "more " if grounded.sources else ""
        what = "passage was found that does" if grounded.left_out == 1 else "passages were found that do"
        yield f"({grounded.left_out} {more}{what} not fit beside the question.)"
    elif not grounded.sources:
        yield "(No passage was found for this question, or it leaves no room for any.)"
