"""Where caches live: downloaded corpora, compiled code.

In: the environment. Out: a folder, which need not exist yet.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return $KIARA_CACHE, or the user's cache folder for Kiara."""
    own = os.environ.get("KIARA_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kiara"
