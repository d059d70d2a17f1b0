"""How well and how fast documents are searched: BM25, vectors and both fused; HNSW against comparing all vectors.

    python benchmarks/retrieval.py                      recall on Python's own documentation strings
    python benchmarks/retrieval.py --speed 100000       latency after loading, build rate, HNSW's recall
    python benchmarks/retrieval.py --memory 1000000     the peak memory of building and of searching so many passages

In: the docstrings of the standard library that runs this. The question is a docstring's first sentence; its answer is
the rest, under the name of what it documents. Questions that stand there twice are left out. For --speed and --memory
passages are made by recombining the sentences of all docstrings at random. Out: tables on stdout; nothing is kept.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kiara_cli.config.load import from_mapping
from kiara_cli.core.retrieve.build import Built, build
from kiara_cli.core.retrieve.embed import Means
from kiara_cli.core.retrieve.nearest import exact
from kiara_cli.core.retrieve.rank import fuse
from kiara_cli.core.retrieve.search import CANDIDATES, Index, open_index

FIRST = re.compile(r"(.+?[.!?])\s+(?=\S)(.+)", re.DOTALL)
PLACES = (1, 5, 10)
QUESTIONS = 200  # of which latencies are taken
Ranking = Callable[[str], list[int]]


def docstrings() -> Iterator[tuple[str, str, str]]:
    """Yield the name, the first sentence and the rest of every docstring that has both."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        within = path.relative_to(library)
        if {"site-packages", "test", "tests", "idlelib"} & set(within.parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                found = FIRST.match(ast.get_docstring(node) or "")
                if found and len(found[1].split()) >= 4 and len(found[1]) <= 300 and len(found[2].split()) >= 8:
                    yield (
                        f"{'.'.join(within.with_suffix('').parts)} {node.name}",
                        " ".join(found[1].split()),
                        found[2],
                    )


def questions(names: bool) -> list[tuple[str, str, str]]:
    """Return heading, question and answer of each; without their names the headings are numbers."""
    seen: dict[str, tuple[str, str, str]] = {}
    for name, question, answer in docstrings():
        seen.setdefault(question, (name, question, answer))
    return [(name if names else "", *rest) for name, *rest in seen.values()]  # type: ignore[misc]


def means(**settings: Any) -> Means:
    return Means(from_mapping({"retrieve": settings}, "benchmark"))


def recall(embedder: str) -> None:
    """Print how often the answer is among the first 1, 5 and 10 passages."""
    for names in (True, False):
        asked = questions(names)
        with tempfile.TemporaryDirectory() as folder:
            docs = Path(folder, "docs")
            docs.mkdir()
            for number, (name, _, answer) in enumerate(asked):
                heading = f"# {name}\n\n" if name else ""
                Path(docs, f"{number:05}.md").write_text(heading + answer.replace("\n#", "\n #"), encoding="utf-8")
            built = build([str(docs)], "docs", Path(folder), means(embedder=embedder))
            index = open_index("docs", Path(folder), means())
        kind = "with the name of what it documents" if names else "without any name"
        print(
            f"\n{len(asked):,} docstrings of Python {sys.version.split()[0]}, {kind}: {built.chunks:,} passages, ",
            end="",
        )
        print(f"{built.embedder} ({built.dimensions} dimensions), indexed in {built.seconds:.1f} s")
        print(f"{'':<10}" + "".join(f"{f'recall@{place}':>11}" for place in PLACES))
        for way, rank in ways(index).items():
            hits = np.array(
                [place_of(number, rank(question), index) for number, (_, question, _) in enumerate(asked)]
            )
            print(f"{way:<10}" + "".join(f"{np.mean(hits <= place):>11.3f}" for place in PLACES))


def ways(index: Index) -> dict[str, Ranking]:
    """Return the three ways to rank passages, best first."""
    assert index.store.vectors is not None
    assert index.embedder is not None
    embedder, ranking = index.embedder, index.ranking

    def vectors(question: str) -> list[int]:
        return index.nearest(embedder.question(question), CANDIDATES).tolist()

    def fused(question: str) -> list[int]:
        return [number for number, _ in fuse(index.rankings(question), CANDIDATES)]

    return {"BM25": lambda question: ranking.best(question, CANDIDATES).tolist(), "vectors": vectors, "fused": fused}


def place_of(wanted: int, found: list[int], index: Index) -> int:
    """Return where the first passage of a file stands among what was found, from 1; large for nowhere."""
    files = index.store.rows["file"][found].tolist()
    return files.index(wanted) + 1 if wanted in files else 1_000_000


def recombined(count: int, folder: Path) -> list[str]:
    """Write so many passages, one a line of JSON; return questions."""
    asked = questions(names=True)
    sentences = [
        part for *_, answer in asked for part in re.split(r"(?<=[.!?])\s+", " ".join(answer.split())) if part
    ]
    draw = random.Random(0)
    with Path(folder, "made.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(count):
            text = " ".join(draw.choice(sentences)[:200] for _ in range(4))[:600]
            file.write(json.dumps({"text": text}) + "\n")
    return [question for _, question, _ in draw.sample(asked, QUESTIONS)]


def made(count: int, folder: Path, **settings: Any) -> tuple[Built, list[str]]:
    """Index so many passages."""
    asked = recombined(count, folder)
    return build([str(folder / "made.jsonl")], "made", folder, means(**settings)), asked


def speed(count: int) -> None:
    """Print the build rate, the latency of each way and the recall of HNSW against comparing all vectors."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        built, asked = made(count, folder, search="hnsw")
        print(f"{built.chunks:,} passages in {built.seconds:.0f} s with HNSW: {built.chunks / built.seconds:,.0f}/s")
        began = time.perf_counter()
        plain = build([], "made", folder, means(search="exact"), anew=True)
        print(f"without HNSW {plain.chunks / (time.perf_counter() - began):,.0f} a second")
        built = build([], "made", folder, means(search="hnsw"))
        for search in ("exact", "hnsw"):
            began = time.perf_counter()
            index = open_index("made", folder, means(search=search))
            index.search(asked[0])
            print(f"{search}: opened and asked once in {time.perf_counter() - began:.2f} s")
            for way, rank in (ways(index) | {"search": lambda question: len(index.search(question))}).items():  # noqa: B023
                times = []
                for question in asked:
                    began = time.perf_counter()
                    rank(question)
                    times.append(1000 * (time.perf_counter() - began))
                print(f"  {way:<8} median {np.median(times):6.1f} ms, 95 % below {np.percentile(times, 95):6.1f} ms")
        print_graph_recall(index, asked)


def print_graph_recall(index: Index, asked: list[str]) -> None:
    """Print how many of the 10 nearest vectors the graph finds."""
    assert index.store.vectors is not None
    assert index.embedder is not None
    shares = []
    for question in asked:
        vector = index.embedder.question(question)
        all_ = exact(index.store.vectors, vector, 10)
        shares.append(len(np.intersect1d(index.nearest(vector, 10), all_)) / len(all_))
    print(f"HNSW finds {np.mean(shares):.4f} of the 10 nearest vectors")


def peak() -> float:
    """Return the peak memory of this process in GB, pages of mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def memory(count: int, place: str | None) -> None:
    """Print the peak memory of building, and in a process of its own of searching, both with HNSW and without."""
    if place is not None:
        index = open_index("made", Path(place), means())
        for question in questions(names=True)[:QUESTIONS]:
            index.search(question[1])
        print(f"searching ({'HNSW' if index.store.meta.graph else 'exact'}): peak {peak():.2f} GB")
        return
    with tempfile.TemporaryDirectory() as folder:
        for search in ("exact", "hnsw"):
            words = [sys.executable, __file__, "--build", search, "--memory", str(count), "--folder", folder]
            subprocess.run(words, check=True)
            subprocess.run([sys.executable, __file__, "--memory", str(count), "--folder", folder], check=True)


def build_measured(count: int, place: str, search: str) -> None:
    """Build and print the peak memory."""
    built, _ = made(count, Path(place), search=search)
    size = sum(path.stat().st_size for path in Path(place, "made").rglob("*") if path.is_file())
    print(
        f"{built.chunks:,} passages built ({search}) in {built.seconds:.0f} s: "
        f"peak {peak():.2f} GB; {size / 1e9:.2f} GB on disk"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedder", default="tfidf", help="what retrieve.embedder takes")
    parser.add_argument("--speed", type=int, metavar="PASSAGES")
    parser.add_argument("--memory", type=int, metavar="PASSAGES")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--build", choices=["exact", "hnsw"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.build:
        build_measured(given.memory, given.folder, given.build)
    elif given.memory:
        memory(given.memory, given.folder)
    elif given.speed:
        speed(given.speed)
    else:
        recall(given.embedder)
