"""An index is brought up to date by chunk, and is whole or the one before whatever happens meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kiara_cli.config.load import from_mapping
from kiara_cli.core.data.claim import claimed
from kiara_cli.core.retrieve.build import Built, build
from kiara_cli.core.retrieve.embed import Means
from kiara_cli.core.retrieve.search import Index, listed, open_index, vanished
from kiara_cli.errors import KiaraError

THINGS = ("lantern", "kettle", "anchor", "violin", "compass", "ladder", "saddle", "beacon")
PLACES = ("harbour", "forest", "mill", "tower", "garden", "bridge", "cellar", "meadow")
Make = Callable[..., Built]


def means(**settings: object) -> Means:
    return Means(from_mapping({"retrieve": settings}, "test"))


def document(number: int) -> str:
    thing, place = THINGS[number % 8], PLACES[number // 8 % 8]
    return "\n".join(
        f"# Number {number} part {part}\n\nThe {thing} of story {number}x{part} stood in the {place}. It was old.\n"
        for part in range(3)
    )


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03}.md").write_text(document(number))
    return folder


def indexed(**settings: object) -> Built:
    return build(["notes"], "own", Path("data/index"), means(**settings))


def test_of_200_files_only_the_chunks_of_the_one_that_changed_are_embedded_and_those_of_the_deleted_one_leave(
    docs: Path,
) -> None:
    first = indexed()
    assert (first.files, first.chunks, first.added, first.embedded, first.reused) == (200, 600, 600, 600, 0)
    before = open_index("own")
    old = {before.store.text(number): before.store.vectors[number] for number in range(600)}  # type: ignore[index]
    changed = docs / "017.md"
    changed.write_text(changed.read_text().replace("17x1 stood", "17x1 was seen"))
    (docs / "100.md").unlink()
    (docs / "101.md").rename(docs / "x101.md")  # the same text elsewhere: nothing to embed
    second = indexed()
    assert (second.chunks, second.added, second.removed) == (597, 4, 7)
    assert (second.embedded, second.reused, second.refitted) == (1, 596, False)
    index = open_index("own")
    assert "was seen" in index.search("where was 17x1 seen?")[0].text
    assert all(passage.file != "notes/100.md" for passage in index.search("story 100x1", k=100))
    for number in range(597):
        text = index.store.text(number)
        assert "was seen" in text or np.array_equal(index.store.vectors[number], old[text])  # type: ignore[index]
    assert indexed().embedded == 0
    assert sum(path.is_dir() for path in Path("data/index/own").iterdir()) == 1


def test_an_embedder_that_learned_from_the_documents_learns_anew_when_they_have_grown_by_half(docs: Path) -> None:
    build([f"notes/{number:03}.md" for number in range(100)], "own", means=means())
    grown = build([f"notes/{number:03}.md" for number in range(140)], "own", means=means())
    assert (grown.refitted, grown.embedded) == (False, 120)
    again = build(["notes"], "own", means=means())
    assert (again.refitted, again.embedded, again.reused) == (True, 600, 0)


def test_a_passage_knows_its_place_and_is_found_again_by_its_id(docs: Path) -> None:
    indexed()
    index = open_index("own")
    found = index.search("violin forest 11x2")[0]
    assert found.place == "notes/011.md › Number 11 part 2, line 11"
    assert index.passage(found.id) is not None
    assert index.passage(found.id).text == found.text  # type: ignore[union-attr]
    assert index.passage("0") is None
    assert index.passage("none") is None
    (docs / "011.md").unlink()
    assert vanished([found]) == ["notes/011.md"]  # found still, and said


@pytest.mark.parametrize("search", ["exact", "hnsw"])
def test_vectors_find_what_no_word_does_and_a_graph_finds_it_too(docs: Path, search: str) -> None:
    indexed(search=search)
    (docs / "000.md").unlink()
    built = indexed(search=search)
    assert built.search == search
    index = open_index("own")
    vector = index.store.vectors[300]  # type: ignore[index]
    exact = open_index("own", means=means(search="exact")).nearest(vector, 10)
    assert index.nearest(vector, 10)[0] == 300
    assert len(np.intersect1d(index.nearest(vector, 10), exact)) >= 9
    found = index.nearest(vector, 597).tolist()
    assert len(found) == len(set(found)) > 500  # a chunk that is gone would stand for another one
    assert "ladders" in index.search("laddering")[0].text or "ladder" in index.search("laddering")[0].text


def test_an_index_without_vectors_is_searched_by_words_alone(docs: Path) -> None:
    built = indexed(embedder="none")
    assert (built.dimensions, built.embedded) == (0, 0)
    assert open_index("own").search("kettle mill")
    assert open_index("own").search("laddering") == []


def killed_at(step: int) -> int | None:
    """Index in a process that is killed at that access to the index's folder; return how many there are."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        calls = 0

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal calls
            touching = event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
            if touching and "data/index" in str(arguments[0]):
                calls += 1
                if calls == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        indexed()
        os.write(writing, str(calls).encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading) as said:
        return None if os.WIFSIGNALED(status) else int(said.read())


def test_the_index_before_is_whole_after_a_kill_at_any_moment(docs: Path) -> None:
    for path in sorted(docs.iterdir())[3:]:
        path.unlink()
    indexed(embedder="none")  # threads of torch do not survive a fork
    (docs / "000.md").write_text("# New\n\nA zebra came by.\n")
    shutil.copytree("data", "kept")
    steps = killed_at(0)
    assert steps is not None
    assert steps > 20
    found = set()
    for step in {*range(1, steps, steps // 6), *range(steps - 5, steps + 1)}:
        shutil.rmtree("data")
        shutil.copytree("kept", "data")
        assert killed_at(step) is None
        index = open_index("own")
        assert index.search("zebra lantern")
        found.add(index.store.meta.chunks)
    assert found == {9, 7}  # the one before, or the new one
    assert indexed().chunks == 7  # and what a killed process left is swept away
    assert [path.name for path in Path("data/index").iterdir()] == ["own"]
    assert sum(path.is_dir() for path in Path("data/index/own").iterdir()) == 1


def test_what_cannot_be_indexed_is_one_line_and_leaves_the_index_as_it_was(docs: Path, tmp_path: Path) -> None:
    for path in sorted(docs.iterdir())[3:]:
        path.unlink()
    indexed()
    before = Path("data/index/own/index.json").read_text()
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9)
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    refused = {
        ("empty",): "the folder empty holds no document",
        ("blank.txt",): "no text in blank.txt",
        ("picture.png",): "picture.png is a binary file, not text",
        ("broken.pdf",): "cannot read the PDF broken.pdf",
        ("nowhere/*.md",): "no documents at nowhere",
    }
    for typed, said in refused.items():
        with pytest.raises(KiaraError, match=said.replace("*", r"\*")):
            build(typed, "own", means=means())
    with pytest.raises(KiaraError, match=r"made with the embedder tfidf, and retrieve.embedder=none; leave it out"):
        indexed(embedder="none")
    with claimed(Path("data/index/.own.lock")), pytest.raises(KiaraError, match="another kiara index is writing"):
        indexed()
    assert Path("data/index/own/index.json").read_text() == before
    with pytest.raises(KiaraError, match=r"the question has 100,000 characters; a search takes at most 20,000"):
        open_index("own").search("q" * 100_000)
    with pytest.raises(KiaraError, match=r"no index other .* there is: own"):
        open_index("other")


@pytest.mark.parametrize("file", ["meta.json", "chunks.npy", "texts.bin", "vectors.npy", "terms/data.csc.index.npy"])
def test_a_damaged_index_is_one_line_and_rebuild_mends_it(docs: Path, file: str) -> None:
    for path in sorted(docs.iterdir())[3:]:
        path.unlink()
    indexed()
    generation = next(path for path in Path("data/index/own").iterdir() if path.is_dir())
    raw = (generation / file).read_bytes()
    (generation / file).write_bytes(raw[: len(raw) // 2])
    with pytest.raises(KiaraError, match=r"the index own is damaged.*--rebuild"):
        open_index("own")
    (generation / file).unlink()
    with pytest.raises(KiaraError, match=r"the index own is damaged.*--rebuild"):
        open_index("own")
    assert listed()[0].name == "own"
    assert build(["notes"], "own", means=means(), anew=True).chunks == 9
    assert isinstance(open_index("own"), Index)
