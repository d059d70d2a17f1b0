"""kiara index: documents in, passages out, on the command line."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest

from tests.commands.conftest import Kiara

DOCS = Path(__file__).parents[2] / "docs"
QUESTIONS = {  # asked as people ask → the file of docs/ that answers
    "How do I write a hook in ten lines?": "hooks.md",
    "Which hooks come with Kiara, such as freezing layers or lookahead?": "hooks-builtin.md",
    "How do I look at attention heads and the logit lens?": "inspect.md",
    "train an adapter with LoRA on my own conversations": "tuning.md",
    "Do two runs with the same seed give the same bits?": "reproducibility.md",
    "compare variants over several seeds with confidence intervals": "experiments.md",
    "What are casts and slots of a small world?": "worlds.md",
    "how is bits per byte measured on held-out text": "evaluation.md",
    "JSON that follows a schema in a reply": "chat.md",
    "How can I index my notes and search them?": "retrieval.md",
}


@pytest.fixture
def notes() -> Path:
    folder = Path("notes")
    folder.mkdir()
    (folder / "ships.md").write_text("# Ships\n\n## Anchors\n\nAn anchor holds a ship. It is heavy.\n")
    (folder / "tools.html").write_text("<h1>Tools</h1><p>A hammer drives nails.</p>")
    (folder / "talks.jsonl").write_text(json.dumps({"prompt": "Who sings?", "completion": "The wren sings."}) + "\n")
    (folder / "steer.py").write_text("import os\n\n\ndef turn(rudder: int) -> int:\n    return -rudder\n")
    return folder


def test_the_documents_of_kiara_answer_questions_about_it(kiara: Kiara) -> None:
    made = kiara("index", str(DOCS), "--name", "kiara", "--json")
    assert made.status == 0, made.err
    assert json.loads(made.out)["chunks"] > 100
    first = {}
    for question in QUESTIONS:
        found = json.loads(kiara("index", "--name", "kiara", "--query", question, "--json").out)
        first[question] = Path(found["passages"][0]["file"]).name
    assert first == QUESTIONS


def test_an_index_is_made_asked_listed_and_brought_up_to_date(kiara: Kiara, notes: Path) -> None:
    made = kiara("index", "notes")
    assert made.status == 0, made.err
    assert "5: 5 new, 0 removed" in made.out
    assert "5 embedded, 0 reused (tfidf, 4 dimensions)" in made.out
    assert "Ask it:  kiara index --name notes --query '…'   or   kiara chat --knowledge notes" in made.err
    for question, place in {
        "what holds a ship": "notes/ships.md › Ships › Anchors, line 5\n    An anchor holds a ship. It is heavy.",
        "nail": "notes/tools.html › Tools, line 1\n    A hammer drives nails.",
        "wren": "notes/talks.jsonl, line 1\n    Who sings?\n    The wren sings.",
        "rudder": "notes/steer.py › turn, lines 4–5\n    def turn(rudder: int) -> int:\n        return -rudder",
    }.items():
        assert f"[1] {place}\n" in kiara("index", "--query", question).out
    assert kiara("index", "--name", "notes", "--query", "-", stdin="hammer\n").out.startswith("[1] notes/tools.html")
    listed = json.loads(kiara("index", "--list", "--json").out)
    assert (listed["name"], listed["documents"], listed["embedder"]) == ("notes", 4, "tfidf")
    assert "notes" in kiara("index", "--list").out
    (notes / "tools.html").unlink()
    gone = kiara("index", "--query", "hammer")
    assert "warning: no longer there: notes/tools.html; to leave them out: kiara index --name notes" in gone.err
    again = json.loads(kiara("index", "--name", "notes", "--json").out)
    assert (again["embedded"], again["removed"], again["files"]) == (0, 1, 3)
    assert "tools.html" not in kiara("index", "--query", "hammer").out


def test_mistakes_are_one_line_and_leave_nothing(kiara: Kiara, notes: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "program").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "key").mkdir()
    mistakes = {
        (): "no documents; give files, folders or globs: kiara index DOCS",
        ("empty",): "the folder empty holds no document that is known by its name",
        ("program",): "program is a binary file, not text",
        ("nowhere.md",): "no documents at nowhere.md",
        ("--query", "x"): "no index yet; make one first: kiara index DOCS",
        ("--query", " "): "the question is empty",
        ("--name", "own"): "no index own; say what is to be indexed: kiara index DOCS --name own",
        ("--rebuild",): "--rebuild needs an index",
        ("notes", "--name", "a/b"): "--name a/b is no name",
        ("notes", "retrieve.overlap_chars=500"): "retrieve.overlap_chars=500 is more than half",
        ("notes", "retrieve.embedder=nowhere.pt"): "no checkpoint nowhere.pt",
        ("notes", "retrieve.embedding_key_file=key"): "cannot read the key in key",
        ("notes", "retrieve.embeder=tfidf"): "did you mean 'embedder'?",
    }
    for words, said in mistakes.items():
        assert said in kiara("index", *words).mistake, words
    assert not Path("data/index").exists() or not list(Path("data/index").glob("*/index.json"))
    kiara("index", "notes")
    long = kiara("index", "--query", "q" * 100_000)
    assert "the question has 100,000 characters; a search takes at most 20,000" in long.mistake


def test_vectors_come_from_a_checkpoint_and_another_one_is_refused(kiara: Kiara, trained: Path, notes: Path) -> None:
    made = kiara("index", "notes", "retrieve.embedder=text", "--json")
    assert made.status == 0, made.err
    assert json.loads(made.out)["dimensions"] == 32
    assert kiara("index", "--query", "anchor").out.startswith("[1] notes/ships.md")
    shutil.copy("checkpoints/text/step_0000002.pt", "checkpoints/text/best.pt")
    assert "was made with the embedder text, which has changed since" in kiara("index", "--query", "anchor").mistake
    assert "which has changed since; make its vectors anew" in kiara("index", "notes").late_mistake
    assert kiara("index", "notes", "--rebuild", "retrieve.embedder=text").status == 0


def test_a_pdf_is_read_by_pypdf_or_by_a_command(kiara: Kiara) -> None:
    pages = "".join(f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET\n" for text in ("A lighthouse warns ships.",))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R "
        "/Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(pages)} >>\nstream\n{pages}endstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]  # fmt: skip
    raw, places = "%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        places.append(len(raw))
        raw += f"{number} 0 obj\n{text}\nendobj\n"
    start = len(raw)
    raw += f"xref\n0 6\n0000000000 65535 f \n{''.join(f'{place:010} 00000 n {chr(10)}' for place in places)}"
    Path("a.pdf").write_text(f"{raw}trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n")
    assert kiara("index", "a.pdf").status == 0
    assert "a.pdf › page 1, line 1\n    A lighthouse warns ships." in kiara("index", "--query", "lighthouse").out
    Path("turn").write_text('#!/bin/sh\nprintf \'first\\n\\fsecond page of %s\' "$(basename "$2")"\n')
    Path("turn").chmod(Path("turn").stat().st_mode | stat.S_IXUSR)
    command = "retrieve.pdf_command=./turn -layout {}"
    assert kiara("index", "a.pdf", command).status == 0
    assert "a.pdf › page 2, line 1\n    second page of a.pdf" in kiara("index", "--query", "second").out
    assert "cannot run nothing: No such file" in kiara("index", "a.pdf", "retrieve.pdf_command=nothing {}").mistake
    assert "false cannot read a.pdf (status 1)" in kiara("index", "a.pdf", "retrieve.pdf_command=false").mistake
