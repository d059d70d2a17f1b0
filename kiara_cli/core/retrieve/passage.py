"""What a search finds: a piece of a document, and where it stands.

In: a text, its file, headings and lines. Out: a `Passage`, and its place as people write it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Passage:
    """A piece of a document; lines are counted from 1, the last one belongs to it."""

    text: str
    file: str
    heading: tuple[str, ...]  # from the title down
    first_line: int
    last_line: int
    score: float  # higher is better; comparable only within one search
    id: str  # the same as long as the file holds this text there

    @property
    def place(self) -> str:
        """Return such as `docs/hooks.md › Points › Names, lines 12–30`."""
        lines = f"line {self.first_line}"
        if self.last_line > self.first_line:
            lines = f"lines {self.first_line}–{self.last_line}"
        return f"{' › '.join((self.file, *self.heading))}, {lines}"
