"""A path, folder, glob or address → the files to read, in a fixed order; and what was left out of it, and why.

In: what a person typed. Out: addresses and sizes. Of a folder or a glob hidden files, what tools have dropped and
what Kiara itself has written are left out.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from kiara_cli.config.folders import as_path
from kiara_cli.core.data.notices import Notices
from kiara_cli.core.data.places import is_address, remote, unreadable

DROPPINGS = ("__pycache__", "__MACOSX", "node_modules")
OWN = ("run.json", "meta.json")  # a run's folder, a data folder
BESIDE = "tokenizer.json"  # lies beside token files and made their ids: no text that anyone misses
OTHER = (".pdf", ".doc", ".docx", ".xls", ".xlsx", ".epub", ".rtf", ".arrow")
HIDDEN = "left out, as they are hidden"
DROPPED = "left out, as tools have made them"
KIARAS = "left out, as Kiara has made them"
NOWHERE = "left out, as these links lead nowhere"
LINKED = "left out, as links to folders are not followed (give such a folder by itself)"
FOREIGN = "left out, as their kind is not read"
ANYTHING = (".json", ".csv", ".tsv")
NAMELESS = "left out, as they may hold anything (give them by name, or as a glob such as '*.json')"
LOCKED = "left out, as they cannot be read"


def is_pipe(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def list_files(source: str, suffixes: Sequence[str], notices: Notices) -> list[tuple[str, int]]:
    """List the files of a path, folder or glob with their sizes; none if nothing is there.

    Of a folder only files with one of the suffixes count, upper case or lower. Raises KiaraError for an address that
    cannot be listed.
    """
    if is_address(source):
        return _list_remote(source, tuple(suffixes), notices)
    path = as_path(source)
    if os.path.isfile(path):
        paths = [str(Path(path))]
    elif os.path.isdir(path):
        paths = list(_walk(path, tuple(suffixes), notices))
    else:
        paths = list(_matches(path, notices))
    return [(path, os.stat(path).st_size) for path in paths]


def _walk(root: str, suffixes: tuple[str, ...], notices: Notices) -> Iterator[str]:
    """Yield the files below a folder, ordered by the parts of their paths."""
    waiting = _entries(root, notices)
    while waiting:
        entry = waiting.pop()
        texts = entry.name.lower().endswith(suffixes)
        if os.path.isdir(entry.path):
            if reason := _why_not(entry):
                notices.add(reason, entry.path)
            else:
                waiting += _entries(entry.path, notices)
        elif not os.path.isfile(entry.path):
            if entry.is_symlink():
                notices.add(NOWHERE, entry.path)
        elif entry.name.startswith("."):
            if texts:
                notices.add(HIDDEN, entry.path)
        elif texts:
            yield str(Path(entry.path))
        elif entry.name.lower().endswith((*ANYTHING, *OTHER)) and entry.name != BESIDE:
            notices.add(NAMELESS if entry.name.lower().endswith(ANYTHING) else FOREIGN, entry.path)


def _entries(folder: str, notices: Notices) -> list[os.DirEntry[str]]:
    """List what is in a folder, last name first."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name, reverse=True)
    except OSError:
        notices.add(LOCKED, folder)
        return []


def _why_not(folder: os.DirEntry[str]) -> str | None:
    """Say why a folder within a folder is left out, or None."""
    if folder.is_symlink():
        return LINKED
    return _why_not_named(folder.name) or (KIARAS if is_own(folder.path) else None)


def _why_not_named(name: str) -> str | None:
    return HIDDEN if name.startswith(".") else DROPPED if name in DROPPINGS else None


def is_own(folder: str) -> bool:
    """Whether a folder is one that Kiara has written: a run or a data set."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in OWN)


def _matches(pattern: str, notices: Notices) -> Iterator[str]:
    """Yield the files that match a glob, each once though links lead to its folder on several ways."""
    found = sorted(map(Path, glob.glob(pattern, recursive=True)))
    fixed = len(list(_before_wildcard(Path(pattern).parts)))
    ways: dict[str, list[Path]] = {}
    left_out: dict[str, str] = {}
    for path in found:
        if os.path.isfile(path):
            ways.setdefault(os.path.join(os.path.realpath(path.parent), path.name), []).append(path)
        elif os.path.islink(path) and not os.path.exists(path):
            left_out[str(path)] = NOWHERE
    for path in sorted(min(paths, key=lambda path: len(path.parts)) for paths in ways.values()):
        between = (Path(*path.parts[:end]) for end in range(fixed + 1, len(path.parts)))
        own = next((folder for folder in between if folder.name in DROPPINGS or is_own(str(folder))), None)
        if own is None:
            yield str(path)
        else:
            left_out[str(own)] = DROPPED if own.name in DROPPINGS else KIARAS
    for place, reason in left_out.items():
        notices.add(reason, place)


def _before_wildcard(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _list_remote(source: str, suffixes: tuple[str, ...], notices: Notices) -> list[tuple[str, int]]:
    system, path = remote(source)
    try:
        if any(mark in path for mark in "*?["):
            found, whole = system.glob(path, detail=True), True
        else:
            found, whole = system.find(path, detail=True), False
    except OSError as error:
        raise unreadable(source, error) from None
    own = {name.rsplit("/", 1)[0] for name in found if name.rsplit("/", 1)[-1] in OWN} - {path}
    listed = []
    for name, info in sorted(found.items()):
        within = PurePosixPath(name.removeprefix(path)).parts
        if info["type"] != "file" or not (whole or name == path or name.lower().endswith(suffixes)):
            continue
        reason = next(filter(None, map(_why_not_named, within if not whole and name != path else ())), None)
        if any(name.startswith(f"{folder}/") for folder in own):
            reason = KIARAS
        if reason:
            notices.add(reason, name)
        else:
            listed.append((system.unstrip_protocol(name), int(info["size"])))
    return listed
