"""Documents → an index on disk; of what is there already only what has changed is worked on again.

In: paths, a name and settings. Out: the index in data/index/<name>/, and what was done.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kiara_cli.config.schema import RetrieveConfig
from kiara_cli.core.data.notices import Notices
from kiara_cli.core.data.slices import Reading, Slice, digest
from kiara_cli.core.retrieve import nearest
from kiara_cli.core.retrieve.chunk import Chunk, Cutting, cut
from kiara_cli.core.retrieve.documents import Source, find_sources, sections
from kiara_cli.core.retrieve.embed import AUTO, Means, rebuild
from kiara_cli.core.retrieve.rank import library, save_ranking
from kiara_cli.core.retrieve.store import INDEX_ROOT, POINTER, Draft, Meta, Store, drafting, open_store, titled
from kiara_cli.core.retrieve.vectors import Embedded, embed
from kiara_cli.errors import KiaraError


@dataclass(frozen=True)
class Indexing:
    """How far the work has come: files, or chunks."""

    stage: str
    done: int
    total: int


Report = Callable[[Indexing], None]


@dataclass(frozen=True)
class Built:
    """What was done. `reused` and `embedded` count vectors; `added` and `removed` chunks against the index before."""

    name: str
    folder: Path
    files: int
    chunks: int
    added: int
    removed: int
    reused: int
    embedded: int
    refitted: bool  # the embedder has learned from the documents anew
    embedder: str
    dimensions: int
    search: str  # exact, hnsw
    skipped: int  # records and files that could not be read and were left out
    seconds: float
    notices: list[str] = field(default_factory=list)


def build(
    typed: Sequence[str],
    name: str,
    root: Path = INDEX_ROOT,
    means: Means | None = None,
    report: Report = lambda indexing: None,
    anew: bool = False,
    skip_bad: bool = False,
) -> Built:
    """Index documents under a name; nothing typed: those that it was made of before; `anew`: keep nothing of it.

    Raises KiaraError, and leaves the index as it was, for what cannot be done.
    """
    library()
    began, means, notices = time.perf_counter(), means or Means(), Notices()
    before = open_before(name, root, anew)
    if not typed and before is None:
        raise KiaraError(f"no index {name}", f"say what is to be indexed: kiara index DOCS --name {name}")
    typed = typed or (before.meta.sources if before is not None else ())
    kept = None if anew else before
    check_embedder(means.settings.embedder, kept)
    data = means.loaded.config.data
    reading = Reading(data.field, skip_bad, data.encoding, data.prompt_field, data.reply_field)
    with drafting(name, root / name) as draft:
        read_all(draft, find_sources(typed, notices), kept, means.settings, reading, report)
        if not draft.count:
            raise nothing(typed, [*notices.lines(), *reading.notices.lines()])
        store = draft.close_texts(name)
        report(Indexing("counting words", 0, draft.count))
        save_ranking((store.titled(number) for number in range(draft.count)), draft.folder / "terms")
        made = embed(store, kept, means, lambda done, total: report(Indexing("embedding", done, total)))
        graph = save_graph(store, made, kept, means.settings, report)
        cutting = way_of(means.settings, reading)
        draft.describe(Meta(tuple(typed), cutting, made.identity, draft.count, made.dimensions, made.fitted, graph))
    gone, new = changes(store, before)
    return Built(
        name, root / name, sum(entry.count > 0 for entry in draft.files), draft.count, new, gone, made.reused,
        made.embedded, made.refitted, made.identity.get("word", "none"), made.dimensions,
        "hnsw" if graph else "exact", reading.skipped, round(time.perf_counter() - began, 3),
        [*notices.lines(), *reading.notices.lines()],
    )  # fmt: skip


def open_before(name: str, root: Path, anew: bool) -> Store | None:
    """Open the index that is there already; a damaged one counts as none where all is made anew."""
    if not (root / name / POINTER).is_file():
        return None
    try:
        return open_store(name, root / name)
    except KiaraError:
        if anew:
            return None
        raise


def check_embedder(word: str, before: Store | None) -> None:
    """Raise KiaraError where another embedder is asked for than the index was made with."""
    if before is not None and word != AUTO and word != before.meta.embedder.get("word", "none"):
        made = before.meta.embedder.get("word", "none")
        raise KiaraError(
            f"the index {before.name} was made with the embedder {made}, and retrieve.embedder={word}",
            f"leave it out, {rebuild(before.name)}, or give another --name",
        )


def way_of(settings: RetrieveConfig, reading: Reading) -> dict[str, Any]:
    """Return all that decides which chunks a file becomes, as JSON values."""
    return asdict(cutting_of(settings)) | {
        "encoding": reading.encoding,
        "fields": list(vars(reading.fields).values()),
    }


def cutting_of(settings: RetrieveConfig) -> Cutting:
    return Cutting(settings.chunk_chars, settings.overlap_chars, settings.pdf_command)


def read_all(
    draft: Draft,
    sources: Sequence[Source],
    before: Store | None,
    settings: RetrieveConfig,
    reading: Reading,
    report: Report,
) -> None:
    """Cut all files into chunks; take those of a file that is the same as before from there."""
    cutting = cutting_of(settings)
    same = before is not None and before.meta.cutting == way_of(settings, reading)
    known = {entry.path: entry for entry in before.files} if before is not None and same else {}
    for number, source in enumerate(sources):
        report(Indexing("reading", number, len(sources)))
        path = source.input.address
        try:
            content = digest(Slice(source.input), reading)
        except KiaraError:
            if source.input.named or "://" in path or Path(path).exists():
                raise
            reading.notices.add("left out, as they have vanished meanwhile", path)
            continue
        filed = known.get(path)
        if before is not None and filed is not None and (filed.digest, filed.kind) == (content, source.kind):
            draft.copy_file(before, filed)
            continue
        chunks = cut(sections(source, cutting, reading), cutting)
        draft.add_file(path, content, source.kind, with_ids(path, chunks))


def with_ids(path: str, chunks: Iterable[Chunk]) -> Iterator[tuple[int, int, Chunk]]:
    """Yield chunks with the numbers by which they are known: of the same text in the same file, and of the text."""
    seen: Counter[int] = Counter()
    for chunk in chunks:
        key = number_of(titled(chunk.heading, chunk.text))
        seen[key] += 1
        yield number_of(f"{path}\n{key}\n{seen[key]}"), key, chunk


def number_of(text: str) -> int:
    """Return 64 bits of the SHA-256 of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def save_graph(store: Store, made: Embedded, before: Store | None, settings: RetrieveConfig, report: Report) -> bool:
    """Write the graph of neighbours where it is asked for, or the index is large; say whether it was."""
    wanted = settings.search == "hnsw" or (settings.search == "auto" and len(store.rows) > settings.hnsw_above)
    if not wanted or not made.dimensions:
        return False
    usable = before is not None and before.meta.graph and made.reused and not made.refitted
    former = (before.folder / "graph.usearch", before.rows) if before is not None and usable else None
    total = len(store.rows)
    vectors, path = store.folder / "vectors.npy", store.folder / "graph.usearch"
    nearest.save_graph(vectors, store.rows, path, former, lambda done: report(Indexing("linking", done, total)))
    return True


def changes(store: Store, before: Store | None) -> tuple[int, int]:
    """Return how many chunks are gone and how many are new."""
    if before is None:
        return 0, len(store.rows)
    now, then = store.rows["id"], before.rows["id"]
    return int((~np.isin(then, now)).sum()), int((~np.isin(now, then)).sum())


def nothing(typed: Sequence[str], why: Sequence[str]) -> KiaraError:
    """Say that there is no text, and what was left out."""
    left_out = f" ({'; '.join(why)})" if why else ""
    return KiaraError(f"no text in {', '.join(typed)}{left_out}", "give documents with some text in them")


def facts(built: Built) -> dict[str, Any]:
    """Return what was done as JSON values."""
    return asdict(built) | {"folder": str(built.folder)}
