"""Which passages reach the model: for questions that refer to the one before them, and in a small context.

    python benchmarks/follow_ups.py CHECKPOINT [--questions 200]

Documents are the documentation strings of Python's own library, a heading for each function. A talk asks for one of
them by its name and words of its first sentence, and then a second question. A row is a kind of second question, a
column a way to search for it; numbers are shares of questions for which a passage of the function that is meant is
among the four that are found: of the same one, or for a "new" question of another. The last lines are shares of
questions, made of words of one sentence, for which that whole sentence is among what the model reads in a context of
so many tokens of the checkpoint's tokenizer.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import random
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from kiara_cli.core.chat.fit import prompt_budget
from kiara_cli.core.chat.knowledge import prompt_with
from kiara_cli.core.checkpoint.find import open_checkpoint
from kiara_cli.core.retrieve.build import build
from kiara_cli.core.retrieve.passage import Passage
from kiara_cli.core.retrieve.prompt import PARTS, Knowledge
from kiara_cli.core.retrieve.search import Index, open_index
from kiara_cli.core.tokenizer.conversation import template_for
from kiara_cli.core.tokenizer.passages import one_line

MODULES = re.findall(
    r"\S+",
    """argparse ast asyncio base64 bisect calendar codecs collections configparser contextlib copy csv
    ctypes dataclasses datetime decimal difflib doctest email enum fnmatch fractions functools glob gzip
    hashlib heapq hmac http.client http.server inspect io itertools json locale logging math mmap
    multiprocessing operator os pathlib pdb pickle platform pprint queue random re secrets select shutil
    signal smtplib socket sqlite3 ssl statistics string struct subprocess tarfile tempfile textwrap
    threading time timeit trace tracemalloc types typing unittest.mock urllib.parse weakref zipfile""",
)
STOP = frozenset(
    re.findall(
        r"\w+",
        "the and for that this with from its not are but can will may was has have into than then used using",
    )
)
VAGUE = [
    "And why?", "How does it work?", "What else?", "Tell me more.", "What does it return?", "Is there a default?",
    "What are its arguments?", "Can you explain that in more detail?", "And what happens when it fails?",
]  # fmt: skip
WAYS: dict[str, Callable[[Knowledge, str, str], list[Passage]]] = {
    "alone": lambda known, former, question: known.index.search(question, 4),
    "together": lambda known, former, question: known.index.search(f"{former}\n{question}", 4),
    "as kiara": lambda known, former, question: known.search(question, former),
}
Entry = tuple[str, list[str]]  # a name, and sentences of its documentation


def write(folder: Path) -> list[Entry]:
    """Write the documentation strings of each module as Markdown; return those with sentences enough."""
    entries: list[Entry] = []
    seen: set[str] = set()
    for module in map(importlib.import_module, MODULES):
        lines = [f"# {module.__name__}", ""]
        for name, value in sorted(vars(module).items()):
            own = getattr(value, "__module__", None) in (module.__name__, f"_{module.__name__}")
            text = inspect.getdoc(value) if own and not name.startswith("_") else None
            if text and len(text) > 80 and text not in seen:
                seen.add(text)
                lines += [f"## {module.__name__}.{name}", "", text, ""]
                sentences = [one_line(part) for part in PARTS.split(text)]
                entries.append((f"{module.__name__}.{name}", [one for one in sentences if len(words(one)) >= 6]))
        (folder / f"{module.__name__}.md").write_text("\n".join(lines), encoding="utf-8")
    return [entry for entry in entries if len(entry[1]) > 1]


def words(text: str) -> list[str]:
    return [word for word in re.findall(r"[A-Za-z_]{3,}", text) if word.lower() not in STOP]


def second_questions(rng: random.Random, same: Entry, other: Entry) -> dict[str, tuple[str, str]]:
    """Return a question of each kind, and the name that it asks for."""
    (own, sentences), (name, theirs) = same, other
    first, second = rng.sample(words(rng.choice(sentences[1:])), 2)
    third, fourth = rng.sample(words(rng.choice(theirs)), 2)
    return {
        "vague": (rng.choice(VAGUE), own),
        "refers, with words": (f"And what of its {first} {second}?", own),
        "new": (f"What is {name}?", name),
        "new, with words": (f"Tell me how {name} treats {third} {fourth}.", name),
        "new, with 'it'": (f"What does {name} do, and does it {third} the {fourth}?", name),
    }


def follow_ups(known: Knowledge, entries: list[Entry], rng: random.Random) -> None:
    found: dict[str, dict[str, int]] = {}
    for number, entry in enumerate(entries):
        former = f"What does {entry[0]} do: {' '.join(rng.sample(words(entry[1][0]), 3))}?"
        other = entries[(number + 37) % len(entries)]
        for kind, (question, meant) in second_questions(rng, entry, other).items():
            row = found.setdefault(kind, dict.fromkeys(WAYS, 0))
            for way, search in WAYS.items():
                row[way] += any(passage.heading[-1] == meant for passage in search(known, former, question))
    print(f"{'second question':<20}", *(f"{way:>9}" for way in WAYS))
    for kind, row in found.items():
        print(f"{kind:<20}", *(f"{count / len(entries):9.3f}" for count in row.values()))
    means = (sum(row[way] for row in found.values()) / len(entries) / len(found) for way in WAYS)
    print(f"{'mean':<20}", *(f"{mean:9.3f}" for mean in means))


def read_in(
    context: int, known: Knowledge, index: Index, entries: list[Entry], word: str, rng: random.Random
) -> None:
    checkpoint, _ = open_checkpoint(word)
    template = template_for(checkpoint.make_tokenizer(), conversations=True)
    there = read = parts = 0
    for name, sentences in entries:
        sentence = rng.choice(sentences[1:])
        question = f"{name.rpartition('.')[2]} {' '.join(rng.sample(words(sentence), 3))}?"
        there += any(sentence in one_line(passage.text) for passage in index.search(question, 4))
        sources = prompt_with(known, template, question, prompt_budget(context, 200))[1].sources
        read += any(sentence in source.text for source in sources)
        parts += len(sources)
    total = len(entries)
    shown = f"found in {there / total:.3f}, read in {read / total:.3f}, of {parts / total:.1f} passages"
    print(f"context {context:>5}: {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--questions", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        docs = Path(folder) / "docs"
        docs.mkdir()
        entries = write(docs)
        built = build([str(docs)], "python", Path(folder) / "index")
        index = open_index("python", Path(folder) / "index")
        rng = random.Random(0)
        rng.shuffle(entries)
        chosen = entries[: given.questions]
        print(f"{built.chunks} chunks of {built.files} files; {len(chosen)} talks, seed 0")
        known = Knowledge("python", index)
        follow_ups(known, chosen, rng)
        for context in (256, 384, 1024):
            read_in(context, known, index, chosen, given.checkpoint, rng)


if __name__ == "__main__":
    main()
