"""Documents → an index on disk; of what is there already only what has changed is worked on again.

In: paths, a name and settings. Out: the index in data/index/<name>/, and what was done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kiara_cli.core.data.notices import Notices
from kiara_cli.core.data.slices import Reading, Slice, digest
from kiara_cli.core.retrieve.chunk import Chunk, Cutting, cut
from kiara_cli.core.retrieve.documents import Source, find_sources, sections
from kiara_cli.core.retrieve.rank import library, save_ranking
from kiara_cli.core.retrieve.store import INDEX_ROOT, Draft, Meta, drafting, titled
from kiara_cli.errors import KiaraError


@dataclass(frozen=True)
class Indexing:
    """How far the work has come."""

    stage: str
    done: int
    total: int


Report = Callable[[Indexing], None]


@dataclass(frozen=True)
class Built:
    """What was done; `reused` and `embedded` count chunks, `removed` those that are no longer there."""

    name: str
    folder: Path
    files: int
    chunks: int
    notices: list[str] = field(default_factory=list)


def build(
    typed: Sequence[str],
    name: str,
    root: Path = INDEX_ROOT,
    cutting: Cutting | None = None,
    report: Report = lambda indexing: None,
) -> Built:
    """Index documents under a name. Raises KiaraError, and leaves the index as it was, for what cannot be done."""
    library()
    cutting, notices, reading = cutting or Cutting(), Notices(), Reading()
    sources = find_sources(typed, notices)
    with drafting(name, root / name) as draft:
        for number, source in enumerate(sources):
            report(Indexing("reading", number, len(sources)))
            add(draft, source, list(cut(sections(source, reading), cutting)), digest(Slice(source.input), reading))
        if not draft.count:
            raise KiaraError(f"no text in {', '.join(typed)}", "give documents with some text in them")
        store = draft.close_texts(name)
        save_ranking((store.titled(number) for number in range(draft.count)), draft.folder / "terms")
        draft.describe(Meta(tuple(typed), asdict(cutting), {}, draft.count))
    said = [*notices.lines(), *reading.notices.lines()]
    return Built(name, root / name, sum(file.count > 0 for file in draft.files), draft.count, said)


def add(draft: Draft, source: Source, chunks: Sequence[Chunk], content: str) -> None:
    """Append the chunks of a file with the numbers by which they are known."""
    path, rows = source.input.address, []
    for place, chunk in enumerate(chunks):
        key = number_of(titled(chunk.heading, chunk.text))
        rows.append((number_of(f"{path}\n{place}\n{key}"), key, chunk))
    draft.add_file(path, content, source.kind, rows)


def number_of(text: str) -> int:
    """Return 64 bits of the SHA-256 of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def facts(built: Built) -> dict[str, Any]:
    """Return what was done as JSON values."""
    return asdict(built) | {"folder": str(built.folder)}
