"""The one exception that a person is meant to read."""

from __future__ import annotations


class KiaraError(Exception):
    """State the user's mistake: what is wrong, and what to do about it.

    The console prints it as one line, `error: <cause>; <remedy>`, and the command exits with status 2.
    `key` names the setting at fault, if one is, so that the line can say which file or variable set it.
    """

    def __init__(self, cause: str, remedy: str, *, key: str | None = None) -> None:
        super().__init__(f"{cause}; {remedy}")
        self.cause = cause
        self.remedy = remedy
        self.key = key
