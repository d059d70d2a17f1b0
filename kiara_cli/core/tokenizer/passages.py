"""How retrieved passages stand before a question: the one form that talks with passages are written in.

In: a question and the texts of passages. Out: the text of a user's turn. It is encoded like anything else that a
person says, so that no passage can open or close a turn; `chat_format` and `imported` see to that.

    Passages:
    [1] text of the first
    [2] text of the second

    question
"""

from __future__ import annotations

from collections.abc import Sequence

OPENING = "Passages:"


def with_passages(question: str, passages: Sequence[str]) -> str:
    """Return what stands in the user's turn; the bare question where there are no passages.

    Each passage is one line: its line breaks and runs of blanks become single spaces, so that it can neither end
    itself nor number another, and a plain transcript's `User:` at the beginning of a line cannot come from it.
    """
    if not passages:
        return question
    lines = [f"[{number}] {one_line(text)}" for number, text in enumerate(passages, 1)]
    return "\n".join([OPENING, *lines, "", question])


def one_line(text: str) -> str:
    """Return a text with every run of white space, line breaks included, as one space."""
    return " ".join(text.split())
