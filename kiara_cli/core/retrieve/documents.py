"""What a person named → the files to index, each with its kind, and its text as sections.

In: paths, folders and globs. Out: files in a fixed order; sections of one of them, read by core/data's readers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiara_cli.core.data.inputs import PACKINGS, Input, as_input
from kiara_cli.core.data.listing import list_files
from kiara_cli.core.data.notices import Notices
from kiara_cli.core.data.readers import document_of, read
from kiara_cli.core.data.records import json_lines
from kiara_cli.core.data.slices import Reading, Slice
from kiara_cli.core.retrieve.chunk import Cutting, Section
from kiara_cli.core.retrieve.outline import OUTLINES
from kiara_cli.errors import KiaraError

KINDS = {".txt": "text", ".md": "markdown", ".markdown": "markdown", ".jsonl": "records", ".ndjson": "records"}


@dataclass(frozen=True)
class Source:
    """A file to index."""

    input: Input
    kind: str


def find_sources(typed: Sequence[str], notices: Notices) -> list[Source]:
    """List the files of all that was named, each once. Raises KiaraError if there are none."""
    suffixes = tuple(kind + packing for kind in KINDS for packing in ("", *PACKINGS))
    found: dict[str, Source] = {}
    for word in typed:
        listed = list_files(word, suffixes, notices)
        if not listed:
            raise _nothing(word, notices)
        named = len(listed) == 1 and listed[0][0] == str(Path(word))
        for address, size in listed:
            name = address.lower()
            for packing in PACKINGS:
                name = name.removesuffix(packing)
            found.setdefault(address, Source(as_input(address, size, named), KINDS.get(Path(name).suffix, "text")))
    return list(found.values())


def sections(source: Source, cutting: Cutting, reading: Reading) -> Iterator[Section]:
    """Read a file as sections. Raises KiaraError for one that was named and is no text."""
    part = Slice(source.input)
    if source.kind == "records":
        for origin, value in json_lines(part, reading):
            line = int(origin.rpartition(" ")[2])
            yield Section((), tuple((line, said) for said in _record(value, origin, reading).split("\n")))
        return
    yield from OUTLINES[source.kind]("".join(document.text for document in read([part], reading)))


def _record(value: Any, origin: str, reading: Reading) -> str:
    """Return the text of a record, or all that is said in it; of any other shape, the texts it holds."""
    try:
        document = document_of(value, origin, reading.fields)
        return document.text if document is not None else ""
    except KiaraError:
        return "\n".join(_texts(value))


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a JSON value; half characters, which UTF-8 cannot hold, become question marks."""
    if isinstance(value, str):
        yield value.encode(errors="replace").decode()
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(inner)


def _nothing(word: str, notices: Notices) -> KiaraError:
    why = "; ".join(notices.lines())
    return KiaraError(
        f"no documents at {word}" + (f": {why}" if why else ""),
        f"give files, folders or globs ({', '.join(KINDS)})",
    )
