"""What a person named as source → the list of inputs to read.

In: a path, folder, glob or address. Out: inputs in a fixed order, each with what kind of file it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kiara_cli.config.folders import as_path
from kiara_cli.core.data.listing import list_files
from kiara_cli.core.data.notices import Notices
from kiara_cli.core.data.places import is_address
from kiara_cli.errors import KiaraError

KINDS = {
    ".txt": "text", ".md": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".ds": "datatrove",
}  # fmt: skip
NAMED_KINDS = {".json": "json", ".csv": "table", ".tsv": "table"}  # which may hold anything: not taken from a folder
STDIN = "-"
PACKINGS = (".gz", ".zst")
SUFFIXES = tuple(kind + packing for kind in KINDS for packing in ("", *PACKINGS))


@dataclass(frozen=True)
class Input:
    """One thing to read; `kind` names its reader."""

    address: str
    size: int  # bytes as they lie there
    kind: str
    packing: str = ""  # .gz or .zst
    named: bool = True  # by a person, and not found in a folder
    label: str = ""  # what a person knows it by, where that is not its address

    @property
    def name(self) -> str:
        return self.label or self.address


def find_inputs(source: str, notices: Notices | None = None) -> list[Input]:
    """List the files of a source, noting what was left out. Raises KiaraError with what is there instead."""
    notices = Notices() if notices is None else notices
    here = Notices()
    listed = list_files(source, SUFFIXES, here)
    named = len(listed) == 1 and (listed[0][0] == source or os.path.isfile(as_path(source)))
    found = [as_input(address, size, named) for address, size in listed]
    notices.merge(here.state())
    if not found:
        raise _nothing(source, here)
    return found


def as_input(address: str, size: int, named: bool = True, label: str = "") -> Input:
    """Tell by its name how a file is to be read; what is none of the known kinds is plain text."""
    name = address.lower()
    packing = next((packing for packing in PACKINGS if name.endswith(packing)), "")
    suffix = Path(name.removesuffix(packing)).suffix
    return Input(address, size, (KINDS | NAMED_KINDS).get(suffix, "text"), packing, named, label)


def _nothing(source: str, left_out: Notices) -> KiaraError:
    """Say that there is nothing to read, and why."""
    path = as_path(source)
    why = "; ".join(left_out.lines())
    if os.path.isdir(path):
        known = ", ".join(KINDS)
        return KiaraError(
            f"the folder {source} holds no text that is known by its name ({known}, also .gz and .zst)"
            + (f": {why}" if why else ""),
            f"give a folder with texts, or a glob such as '{source.rstrip('/')}/**/*.py'",
        )
    if os.path.islink(path):
        return KiaraError(f"{source} is a link to {os.readlink(path)}, which is not there", "give another file")
    if os.path.exists(path):
        return KiaraError(f"{source} is no file", "give a file, a folder or a glob")
    if is_address(source):
        return KiaraError(f"no data at {source}", "check the address")
    return KiaraError(f"no data at {source}" + (f": {why}" if why else ""), _what_is_there(Path(path)))


def _what_is_there(path: Path) -> str:
    """Name the nearest folder that exists and the texts in it."""
    folder = next(parent for parent in (path.parent, *path.parent.parents, Path()) if os.path.isdir(parent))
    found = sorted(name + ("/" if os.path.isdir(folder / name) else "") for name in os.listdir(folder))
    texts = [name for name in found if name.lower().endswith((*SUFFIXES, "/")) and not name.startswith(".")]
    if not texts:
        return f"{folder.resolve()} holds no text files: give the path of one"
    more = f" and {len(texts) - 10} more" if len(texts) > 10 else ""
    return f"in {folder.resolve()} there is: {', '.join(texts[:10])}{more}"
