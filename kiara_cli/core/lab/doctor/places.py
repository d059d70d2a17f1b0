"""Where Kiara writes: whether it can, how much room there is, and who else can read or change it.

In: a host. Out: findings. A trial file is written and taken away again; no folder is made.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kiara_cli.config.folders import cache_folder, state_folder
from kiara_cli.core.lab.doctor.finding import Finding, Host, Level, size
from kiara_cli.core.runtime.native import is_ours

LEAST = 100_000_000  # bytes: the default model's run takes about 50 MB, its data 5 MB
USUAL = 1_000_000_000
MANY = 20_000  # files of a cache that are counted


def look_at_places(host: Host) -> Iterator[Finding]:
    """Look at the folders of data and runs, then at those that belong to the user."""
    yield folder_finding(host.data, "token files are written here")
    yield folder_finding(host.runs, "runs and their checkpoints are written here")
    yield from _cache(cache_folder())
    yield from _history(state_folder())
    yield _temporary()


def folder_finding(folder: Path, meaning: str) -> Finding:
    """Write and rename a file in a folder, or where it would be made, and look at the room there."""
    name, place = f"{folder}/", nearest(folder)
    full = os.path.abspath(folder)
    if place == folder and not folder.is_dir():
        return Finding(name, "broken", f"{full} is a file", meaning, f"move it away: {folder} must be a folder")
    fault = write_fault(place)
    if fault is not None:
        remedy = "make it writable (its owner, permissions or mount), or work in another folder"
        return Finding(name, "broken", f"{os.path.abspath(place)} cannot be written: {fault}", meaning, remedy)
    free = shutil.disk_usage(place).free
    value = f"{full}{'' if place == folder else ' (to be made)'}, {size(free)} free"
    if free < LEAST:
        return Finding(name, "broken", value, meaning, "make room: kiara runs remove, or another disk")
    if strange := unwritable_parts(folder):
        return Finding(
            name,
            "warning",
            f"{value}; not writable in it: {', '.join(strange)}",
            meaning,
            f"chown them, as of a container that ran as root: chown -R $USER {folder}",
        )
    if free < USUAL:
        return Finding(name, "warning", value, meaning, "room for the default model, not for many runs: make some")
    return Finding(name, "ok", value, meaning)


def nearest(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def write_fault(folder: Path) -> str | None:
    """Write a small file to the disk and rename it, as every checkpoint is; say what went wrong."""
    try:
        with tempfile.TemporaryDirectory(prefix=".kiara-", dir=folder) as inside:
            with open(Path(inside, "a"), "wb") as file:
                file.write(b"trial")
                file.flush()
                os.fsync(file.fileno())
            Path(inside, "a").replace(Path(inside, "b"))
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def unwritable_parts(folder: Path) -> list[str]:
    """Name up to three folders in a folder that this user cannot write in."""
    try:
        with os.scandir(folder) as entries:
            found = [
                entry.name for entry in entries if entry.is_dir() and not os.access(entry.path, os.W_OK | os.X_OK)
            ]
    except OSError:
        return []
    return [*sorted(found)[:3], *(["…"] if len(found) > 3 else [])]


def _cache(cache: Path) -> Iterator[Finding]:
    meaning, name = "compiled C and downloaded corpora; may be deleted at any time", "cache"
    place = nearest(cache)
    fault = "it is a file" if place == cache and not cache.is_dir() else write_fault(place)
    if fault is not None:
        yield Finding(
            name,
            "warning",
            f"{cache} cannot be written: {fault}",
            "C is compiled anew by every process, and nothing can be downloaded",
            "set KIARA_CACHE to a folder of your own",
        )
        return
    free = size(shutil.disk_usage(place).free)
    value = (
        f"{cache}, {size(_bytes_in(cache))}, {free} free" if place == cache else f"{cache} (to be made), {free} free"
    )
    yield Finding(name, "ok", value, meaning)
    compiled = cache / "compiled"
    if compiled.is_dir() and os.name == "posix":
        yield _compiled(compiled)


def _compiled(folder: Path) -> Finding:
    mode = stat.S_IMODE(folder.stat().st_mode)
    files = list(folder.glob("*.so"))
    value = f"{folder}, {len(files)} libraries, permissions {mode:04o}"
    safe = is_ours(folder) and all(is_ours(file) for file in files)
    meaning = "code that is loaded: it must belong to you alone"
    if safe and not mode & 0o077:
        return Finding("compiled code", "ok", value, meaning)
    remedy = (
        f"chmod 700 {folder}"
        if folder.stat().st_uid == os.getuid()
        else f"remove {folder}: it belongs to another user"
    )
    if not safe:
        meaning += "; what others can write is not loaded, but made again by every process"
        remedy = f"{remedy}, and chmod 600 what is in it" if remedy.startswith("chmod") else remedy
    return Finding("compiled code", "warning", value, meaning, remedy)


def _bytes_in(folder: Path) -> int:
    total = count = 0
    for place, _, names in os.walk(folder):
        for name in names:
            count += 1
            if count > MANY:
                return total
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # gone meanwhile
                continue
    return total


def _history(folder: Path | None) -> Iterator[Finding]:
    name, meaning = "history", "what you typed in kiara chat (chat.history=false remembers nothing)"
    if folder is None:
        yield Finding(name, "off", "no home folder", meaning)
        return
    fault = write_fault(nearest(folder))
    if fault is not None:
        yield Finding(name, "off", f"{folder} cannot be written: {fault}", meaning)
        return
    readable = [file.name for file in folder.glob("*") if file.is_file() and file.stat().st_mode & 0o077]
    if readable and os.name == "posix":
        yield Finding(
            name, "warning", f"{folder}: others can read {', '.join(readable)}", meaning, f"chmod 600 {folder}/*"
        )
    else:
        yield Finding(name, "ok", str(folder), meaning)


def _temporary() -> Finding:
    meaning = "C is compiled here; uploads and sorting pass through it"
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        return Finding("temporary files", "warning", str(error.strerror or error), meaning, "set TMPDIR to a folder")
    level: Level = "ok" if shutil.disk_usage(folder).free > LEAST else "warning"
    remedy = "make room, or set TMPDIR to another folder" if level == "warning" else ""
    return Finding(
        "temporary files", level, f"{folder}, {size(shutil.disk_usage(folder).free)} free", meaning, remedy
    )
