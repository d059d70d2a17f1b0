"""Where things are on this machine: the caches (downloaded corpora, compiled code), what is remembered, and what `~`
stands for.

In: the environment, a path as it was typed. Out: a folder, which need not exist yet.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """Return $KIARA_CACHE, or the user's cache folder for Kiara; a temporary one where there is no home."""
    if own := os.environ.get("KIARA_CACHE"):
        return Path(os.path.expanduser(own))
    home = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if not home.startswith("~"):
        return Path(home, "kiara")
    return Path(tempfile.gettempdir(), f"kiara-{os.getuid()}")


def state_folder() -> Path | None:
    """Return the user's folder for what Kiara remembers between its runs; None where there is no home."""
    home = os.path.expanduser(os.environ.get("XDG_STATE_HOME") or "~/.local/state")
    return None if home.startswith("~") else Path(home, "kiara")


def as_path(word: str) -> str:
    """Return the path that a person means: as it is typed where that exists, else with `~` as the shell expands it.

    `~draft.txt`, which is no user's home, is a file like any other; an address stays what it is.
    """
    return word if os.path.lexists(word) else os.path.expanduser(word)


def expanded(word: str) -> Path:
    """Return the same as a `Path`."""
    return Path(as_path(word))
