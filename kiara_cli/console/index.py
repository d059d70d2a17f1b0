"""Indexing as a person watches it, and passages as a person reads them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kiara_cli.console import output
from kiara_cli.core.retrieve.build import Built, Indexing
from kiara_cli.core.retrieve.passage import Passage
from kiara_cli.core.retrieve.search import Index, Listed, vanished


@contextmanager
def showing() -> Iterator[Callable[[Indexing], None]]:
    """Show a progress bar of files, then of passages."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = output.console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, stage = bar.add_task("reading", total=None), ""

        def report(indexing: Indexing) -> None:
            nonlocal stage
            if indexing.stage != stage:
                stage = indexing.stage
                bar.reset(task, description=stage)
            bar.update(task, completed=indexing.done, total=indexing.total or None)

        yield report


def show_built(built: Built) -> None:
    """Print what was done, and what to do next."""
    changed = f"{built.added:,} new, {built.removed:,} removed"
    vectors = f"{built.embedded:,} embedded, {built.reused:,} reused" if built.dimensions else "none: BM25 alone"
    rows = [
        ("index", f"{built.name} ({built.folder})"),
        ("documents", f"{built.files:,}"),
        ("passages", f"{built.chunks:,}: {changed}"),
        ("vectors", vectors + (f" ({built.embedder}, {built.dimensions} dimensions)" if built.dimensions else "")),
        ("search", {"exact": "BM25 and all vectors", "hnsw": "BM25 and a graph of vectors (HNSW)"}[built.search]),
        ("seconds", f"{built.seconds:.1f}"),
    ]
    output.facts("", rows if built.dimensions else [row for row in rows if row[0] != "search"], to_stdout=True)
    if built.refitted:
        output.note(f"The index has changed by half since {built.embedder} learned from it: it has learned anew.")
    if built.skipped:
        output.note(f"Left out {built.skipped:,} records or files that could not be read.")
    output.hint(f"Ask it:  kiara index --name {built.name} --query '…'   or   kiara chat --knowledge {built.name}")


def show_passages(index: Index, question: str, passages: Sequence[Passage], json_: bool) -> None:
    """Print passages, best first, each under its place; or all as one JSON object."""
    gone = vanished(passages)
    if json_:
        found = [asdict(passage) | {"place": passage.place} for passage in passages]
        return output.record({"index": index.name, "question": question, "passages": found, "vanished": gone})
    for number, passage in enumerate(passages, 1):
        output.heading(f"[{number}] {passage.place}")
        output.result("".join(f"    {line}\n" for line in passage.text.split("\n")))
    if not passages:
        output.note(f"Nothing in {index.name} is like this question.")
    if gone:
        output.warn(f"no longer there: {', '.join(gone)}; to leave them out: kiara index --name {index.name}")


def show_indexes(indexes: Sequence[Listed], json_: bool) -> None:
    """Print a row for each index, or a JSON object."""
    if json_:
        for entry in indexes:
            output.record(asdict(entry))
        return
    if not indexes:
        output.note("No index yet.")
        return output.hint("Make one:  kiara index DOCS")
    rows = [
        {
            "name": entry.name,
            "documents": f"{entry.documents:,}",
            "passages": f"{entry.passages:,}",
            "embedder": entry.embedder,
            "search": entry.search,
            "size": output.amount(entry.bytes, "B"),
            "made": time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.modified)),
            "of": " ".join(entry.sources) if entry.problem is None else entry.problem,
        }
        for entry in indexes
    ]
    output.table(rows)
