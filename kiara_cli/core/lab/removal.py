"""Runs that go: what would be removed, and removing it.

In: a run. Out: a `Removal` to show and ask about; then a folder, or its checkpoints, less.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from kiara_cli.core.checkpoint.run import Lock, Run
from kiara_cli.core.lab.records import disk_use
from kiara_cli.errors import KiaraError

PUBLISHED = ("best.pt", "last.pt")  # beside the runs: those of the run started last


@dataclass(frozen=True)
class Removal:
    """What removing a run would do."""

    run: Run
    files: int
    bytes: int
    kept: tuple[Path, ...]  # the same weights under another name, which stay


def plan_removal(run: Run, checkpoints_only: bool = False) -> Removal:
    """Say what would be removed. Raises KiaraError for a run that is being trained."""
    if run.status == "running":
        raise _trained(run)
    paths = checkpoints(run) if checkpoints_only else [path for path in run.folder.rglob("*") if path.is_file()]
    inodes = {(info.st_dev, info.st_ino): info.st_size for info in (path.lstat() for path in paths)}
    size = sum(inodes.values()) if checkpoints_only else disk_use(run.folder)
    kept = tuple(
        path for name in PUBLISHED if (path := run.root / name).is_file() and _is_of(path, run.folder / name)
    )
    return Removal(run, len(paths), size, kept)


def remove_run(run: Run, checkpoints_only: bool = False) -> None:
    """Remove a run's folder, or only its checkpoints. Raises KiaraError if a process trains it.

    The folder gets a hidden name first, so that no half of a run is ever listed.
    """
    if run.status == "running":
        raise _trained(run)
    try:
        lock = Lock(run.folder)
    except KiaraError:
        raise _trained(run) from None
    try:
        if checkpoints_only:
            for path in checkpoints(run):
                path.unlink()
        elif run.folder.is_symlink():
            run.folder.unlink()
        else:
            hidden = run.folder.with_name(f".{run.name}.{os.getpid()}.removed")
            run.folder.rename(hidden)
            shutil.rmtree(hidden)
    except OSError as error:
        raise KiaraError(f"{run.folder} cannot be removed: {error.strerror or error}", "check permissions") from None
    finally:
        lock.release()


def checkpoints(run: Run) -> list[Path]:
    """List the files of weights in a run's folder, in the order of their names."""
    return sorted(path for path in run.folder.iterdir() if path.suffix in (".pt", ".safetensors"))


def _is_of(path: Path, own: Path) -> bool:
    """Whether a file is another name of a run's own, or a copy where the file system has no hard links."""
    if not own.is_file():
        return False
    about, theirs = path.stat(), own.stat()
    copied = about.st_size == theirs.st_size and about.st_nlink == 1 and path.read_bytes() == own.read_bytes()
    return path.samefile(own) or copied


def _trained(run: Run) -> KiaraError:
    return KiaraError(f"run {run.name} is being trained", "stop that process first; nothing was removed")
