"""Where an export goes: never over something that is there, and whole or not at all.

In: the path a person gave. Out: a partial place to write to, which takes that path when it is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kiara_cli.core.checkpoint import atomic
from kiara_cli.errors import KiaraError


def check_free(path: Path) -> None:
    """Raise KiaraError if something is at `path`, or if its name cannot be a file."""
    if path.exists() or path.is_symlink():
        raise KiaraError(f"{path} exists already", "give another --out, or remove it first")
    if not path.name:
        raise KiaraError(f"--out {path} names no file or folder", "give a name")


def check_suffix(path: Path, suffixes: tuple[str, ...]) -> None:
    """Raise KiaraError if a file is not called as its kind is."""
    if path.suffix not in suffixes:
        raise KiaraError(f"--out {path} does not end in {' or '.join(suffixes)}", f"try {path}{suffixes[0]}")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Write to a hidden file beside `path`, then give it that name."""
    check_free(path)
    with atomic.replacing(path) as partial:
        yield partial


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Write to a hidden folder beside `path`, then give it that name."""
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        yield partial
        for file in partial.iterdir():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
