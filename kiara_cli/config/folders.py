"""Where things are on this machine: the caches (downloaded corpora, compiled code), and what `~` stands for.

In: the environment, a path as it was typed. Out: a folder, which need not exist yet.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """Return $KIARA_CACHE, or the user's cache folder for Kiara; a temporary one where there is no home."""
    if own := os.environ.get("KIARA_CACHE"):
        return expanded(own)
    home = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if home.parts[0] != "~":
        return home / "kiara"
    return Path(tempfile.gettempdir(), f"kiara-{os.getuid()}")


def expanded(word: str | Path) -> Path:
    """Return a path with `~` and `~user` as a shell expands them; `~draft.txt`, which is no user's, is a file."""
    return Path(os.path.expanduser(word))
