"""Files that are whole or not there at all; without torch, as records need no model.

In: a path. Out: a file in its place in one step, or a second name of one that is there.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}
NO_LINKS |= {errno.EINVAL} if os.name == "nt" else set()  # FAT


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to a temporary file beside `path`, then put it in its place: fsync, rename, fsync the folder.

    What a killed process left under the temporary name is unlinked first, never written into: it may be the second
    name of another run's checkpoint.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{path.suffix}")
    partial.unlink(missing_ok=True)
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def link(existing: Path, path: Path) -> None:
    """Give a file a second name, replacing atomically; a copy where the file system has no hard links."""
    with replacing(path) as partial:
        try:
            os.link(existing, partial)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            shutil.copyfile(existing, partial)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder reach the disk."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
