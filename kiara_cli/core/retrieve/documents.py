"""What a person named → the files to index, each with its kind, and its text as sections.

In: paths, folders and globs. Out: files in a fixed order; sections of one of them, read by core/data's readers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiara_cli.config.folders import as_path
from kiara_cli.core.data.inputs import PACKINGS, Input, as_input
from kiara_cli.core.data.listing import list_files
from kiara_cli.core.data.notices import Notices
from kiara_cli.core.data.places import is_address
from kiara_cli.core.data.readers import document_of, read
from kiara_cli.core.data.records import json_lines, json_values
from kiara_cli.core.data.slices import Reading, Slice
from kiara_cli.core.data.tables import csv_rows, parquet_rows
from kiara_cli.core.retrieve import pdf
from kiara_cli.core.retrieve.chunk import Cutting, Section
from kiara_cli.core.retrieve.outline import OUTLINES
from kiara_cli.errors import KiaraError

PDF = "pdf"
RECORDS: dict[str, Callable[[Slice, Reading], Iterator[tuple[str, Any]]]] = {
    "jsonl": json_lines,
    "json": json_values,
    "parquet": parquet_rows,
    "table": csv_rows,
}
CODE = (
    ".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".go", ".java", ".js", ".jsx", ".ts", ".tsx", ".kt", ".lua", ".php",
    ".pl", ".r", ".rb", ".rs", ".scala", ".sh", ".sql", ".swift", ".toml", ".yaml", ".yml",
)  # fmt: skip
KINDS = {  # how a file is cut, by its name; .json, .csv and .tsv may hold anything, and are taken only by name
    ".txt": "text", ".md": "markdown", ".markdown": "markdown", ".rst": "restructured", ".html": "html",
    ".htm": "html", ".py": "python", ".jsonl": "records", ".ndjson": "records", ".parquet": "records", ".pdf": PDF,
    **dict.fromkeys(CODE, "code"),
}  # fmt: skip


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
        here = Notices()
        listed = list_files(word, suffixes, here)
        notices.merge(here.state())
        if not listed:
            raise _nothing(word, here)
        named = len(listed) == 1 and os.path.isfile(as_path(word))
        for address, size in listed:
            name = address.lower()
            for packing in PACKINGS:
                name = name.removesuffix(packing)
            input = as_input(address, size, named)
            kind = "records" if input.kind in RECORDS else KINDS.get(Path(name).suffix, "text")
            found.setdefault(address, Source(input, kind))
    return list(found.values())


def sections(source: Source, cutting: Cutting, reading: Reading) -> Iterator[Section]:
    """Read a file as sections. Raises KiaraError for one that was named and is no text."""
    part = Slice(source.input)
    if source.kind == PDF:
        yield from pdf.pages(source.input, cutting.pdf_command)
    elif source.kind == "records":
        for origin, value in RECORDS[source.input.kind](part, reading):
            line = int(origin.rpartition(" ")[2])
            yield Section((), tuple((line, said) for said in _record(value, origin, reading).split("\n")))
    else:
        text = "".join(document.text for document in read([part], reading))
        yield from OUTLINES[source.kind](text, cutting)


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


def _nothing(word: str, left_out: Notices) -> KiaraError:
    """Say that there is nothing to index, and why."""
    why = "".join(f" ({line})" for line in left_out.lines())
    if not is_address(word) and os.path.isdir(as_path(word)):
        return KiaraError(
            f"the folder {word} holds no document that is known by its name{why}",
            f"give one with texts ({', '.join(list(KINDS)[:12])} …), or a glob such as '{word.rstrip('/')}/*.log'",
        )
    return KiaraError(f"no documents at {word}{why}", "give files, folders or globs that are there")
