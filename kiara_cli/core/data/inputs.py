"""What a person named as source → the list of inputs to read.

In: a path, folder, glob or address (or several, one a line), or the name of a corpus. Out: inputs in a fixed order,
each with what kind of file it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kiara_cli.core.data.places import list_files
from kiara_cli.errors import KiaraError

KINDS = {".txt": "text", ".md": "text", ".jsonl": "jsonl", ".parquet": "parquet", ".ds": "datatrove"}
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


def find_inputs(source: str) -> list[Input]:
    """List the files of a source. Raises KiaraError with what is there instead."""
    return [found for line in source.split("\n") if line.strip() for found in _find(line.strip())]


def as_input(address: str, size: int) -> Input:
    """Tell by its name how a file is to be read; what is none of the known kinds is plain text."""
    name = address.lower()
    packing = next((packing for packing in PACKINGS if name.endswith(packing)), "")
    suffix = Path(name.removesuffix(packing)).suffix
    return Input(address, size, KINDS.get(suffix, "text"), packing)


def _find(source: str) -> list[Input]:
    found = [as_input(address, size) for address, size in list_files(source, SUFFIXES)]
    if not found and Path(source).expanduser().is_dir():
        known = ", ".join(KINDS)
        raise KiaraError(
            f"the folder {source} holds no text that is known by its name ({known}, also .gz and .zst)",
            f"give a folder with texts, or a glob such as '{source.rstrip('/')}/**/*.py'",
        )
    if not found:
        raise KiaraError(f"no data at {source}", _what_is_there(Path(source).expanduser()))
    return found


def _what_is_there(path: Path) -> str:
    """Name the nearest folder that exists and the texts in it."""
    folder = next(parent for parent in (path.parent, *path.parent.parents, Path()) if parent.is_dir())
    found = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir() if not p.name.startswith("."))
    texts = [name for name in found if name.lower().endswith((*SUFFIXES, "/"))]
    if not texts:
        return f"{folder.resolve()} holds no text files: give the path of one"
    more = f" and {len(texts) - 10} more" if len(texts) > 10 else ""
    return f"in {folder.resolve()} there is: {', '.join(texts[:10])}{more}"
