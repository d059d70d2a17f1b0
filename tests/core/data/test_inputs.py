"""A source is what a person means by it, or the answer says what is there."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from kiara_cli.config.schema import DataConfig
from kiara_cli.core.data.folders import dataset_name
from kiara_cli.core.data.inputs import as_input, find_inputs
from kiara_cli.core.data.notices import Notices
from kiara_cli.core.data.readers import read_documents
from kiara_cli.errors import KiaraError


@pytest.mark.parametrize(
    ("name", "kind", "packing"),
    [
        ("a.txt", "text", ""), ("A.TXT", "text", ""), ("a.md", "text", ""), ("a.py", "text", ""),
        ("LICENSE", "text", ""),
        ("a.jsonl", "jsonl", ""), ("a.JSONL.GZ", "jsonl", ".gz"), ("a.txt.zst", "text", ".zst"),
        ("a.ndjson", "jsonl", ""), ("a.json", "json", ""),
        ("a.parquet", "parquet", ""), ("00000_tokens.ds", "datatrove", ""),
    ],
)  # fmt: skip
def test_a_name_tells_how_to_read_a_file(name: str, kind: str, packing: str) -> None:
    found = as_input(name, 1)
    assert (found.kind, found.packing) == (kind, packing)


def test_upper_case_suffixes_of_a_folder_count_too() -> None:
    Path("texts").mkdir()
    for name in ("A.TXT", "b.Md", "c.py"):
        Path("texts", name).write_text(name)
    assert [document.text for document in read_documents("texts")] == ["A.TXT", "b.Md"]
    assert [document.text for document in read_documents("texts/*.py")] == ["c.py"]


def test_an_empty_file_is_refused() -> None:
    Path("empty.txt").write_text(" \n\n")
    with pytest.raises(KiaraError, match=r"empty.txt is empty"):
        read_documents("empty.txt")


def test_a_folder_is_all_its_texts_in_a_fixed_order() -> None:
    for name in ("b.txt", "a.md", "deep/c.txt", "ignored.png", "deep/empty.txt"):
        path = Path("texts", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if "empty" in name else name)
    assert [document.text for document in read_documents("texts")] == ["a.md", "b.txt", "deep/c.txt"]
    assert [document.text for document in read_documents("texts/*.txt")] == ["b.txt"]
    assert [document.text for document in read_documents("texts/**/*.txt")] == ["b.txt", "deep/c.txt"]


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    assert [found.address for found in find_inputs("~/mine.txt")] == [str(tmp_path / "mine.txt")]


NAMES = [
    "~draft.txt",
    "~$book.txt",
    "~",
    " leading.txt",
    "new\nline.txt",
    "a=b.txt",
    "a.b=c.txt",
    "[x]*?.txt",
    "é" * 123 + ".txt",
    os.fsdecode(b"b\xe9.txt"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("before", ["", "./", "deep/"])
def test_a_path_is_taken_as_it_is_written(name: str, before: str) -> None:
    Path("deep").mkdir()
    Path(before + name).write_text("x")
    assert [document.text for document in read_documents(before + name)] == ["x"]
    assert dataset_name(DataConfig(source=before + name))
    with pytest.raises(KiaraError, match="no data at"):
        find_inputs(before + "~nobody" + name)


def test_a_name_that_no_file_can_have_is_answered_as_any_other() -> None:
    for name in ("x" * 300, "a\0b", "~" + "x" * 300):
        with pytest.raises(KiaraError, match="no data at"):
            find_inputs(name)


def test_hidden_files_and_what_tools_drop_are_left_out_of_a_folder_and_said() -> None:
    for name in (
        "a.txt",
        "._a.txt",
        ".notes.md",
        ".git/x.txt",
        ".ipynb_checkpoints/a.txt",
        "__pycache__/x.md",
        ".gitignore",
    ):
        path = Path("texts", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    notices = Notices()
    assert [found.address for found in find_inputs("texts", notices)] == ["texts/a.txt"]
    assert notices.lines() == [
        "left out, as they are hidden: texts/._a.txt, texts/.git, texts/.ipynb_checkpoints and 1 more",
        "left out, as tools have made them: texts/__pycache__",
    ]
    assert [found.address for found in find_inputs("texts/**/*")] == ["texts/a.txt"]
    assert [found.address for found in find_inputs("texts/.git")] == ["texts/.git/x.txt"], "what is named is meant"
    Path("texts/a.txt").unlink()
    with pytest.raises(
        KiaraError, match=r"the folder texts holds no text .*left out, as they are hidden: texts/._a.txt"
    ):
        find_inputs("texts")


def test_links_that_dangle_or_loop_are_left_out_and_said() -> None:
    Path("texts/deep").mkdir(parents=True)
    Path("texts/a.txt").write_text("x")
    Path("texts/dangling.txt").symlink_to("nowhere")
    Path("texts/loop.txt").symlink_to("loop.txt")
    Path("texts/deep/up").symlink_to("..")
    Path("texts/good.txt").symlink_to("a.txt")
    notices = Notices()
    assert [found.address for found in find_inputs("texts", notices)] == ["texts/a.txt", "texts/good.txt"]
    nowhere, linked = notices.lines()
    assert nowhere == "left out, as these links lead nowhere: texts/dangling.txt, texts/loop.txt"
    assert linked.startswith("left out, as links to folders are not followed")
    assert [found.address for found in find_inputs("texts/**/*.txt")] == ["texts/a.txt", "texts/good.txt"]
    with pytest.raises(KiaraError, match=r"texts/dangling.txt is a link to nowhere, which is not there"):
        find_inputs("texts/dangling.txt")


@pytest.mark.parametrize("source", ["here", "here/**/*.*"])
def test_what_kiara_has_made_is_left_out_of_a_folder(source: str) -> None:
    for name in (
        "a.txt",
        "data/b.txt",
        "data/x-12345678/meta.json",
        "data/x-12345678/n.md",
        "runs/x/run.json",
        "runs/x/m.jsonl",
    ):
        path = Path("here", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    notices = Notices()
    found = [found.address for found in find_inputs(source, notices)]
    assert found == ["here/a.txt", "here/data/b.txt"]
    assert "left out, as Kiara has made them: here/data/x-12345678, here/runs/x" in notices.lines()
    assert [found.address for found in find_inputs("here/runs/x")] == ["here/runs/x/m.jsonl"], (
        "what is named is meant"
    )


def test_what_may_hold_anything_is_read_where_it_is_named_and_said_in_a_folder() -> None:
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("x")
    Path("texts/b.csv").write_text("x,y")
    Path("texts/c.json").write_text("{}")
    assert [found.kind for found in find_inputs("texts/b.csv")] == ["table"]
    notices = Notices()
    assert [found.address for found in find_inputs("texts", notices)] == ["texts/a.txt"]
    assert "they may hold anything" in notices.lines()[0]
    assert notices.lines()[0].endswith("texts/b.csv, texts/c.json")
    assert [found.kind for found in find_inputs("texts/*")] == ["text", "table", "json"]


def test_a_folder_at_an_address_leaves_out_the_same() -> None:
    system = fsspec.filesystem("memory")
    for name in ("a.txt", ".git/b.txt", "__pycache__/c.txt", "run/run.json", "run/metrics.jsonl"):
        system.pipe_file(f"/bucket/{name}", b"x")
    notices = Notices()
    assert [found.address for found in find_inputs("memory://bucket", notices)] == ["memory:///bucket/a.txt"]
    assert len(notices.lines()) == 3
    system.rm("/bucket", recursive=True)


def test_a_missing_file_is_answered_with_what_is_there(tmp_path: Path) -> None:
    Path("one.txt").write_text("x")
    Path("other.png").write_text("x")
    Path("folder").mkdir()
    with pytest.raises(KiaraError) as caught:
        find_inputs("nowhere/missing.txt")
    assert str(caught.value) == f"no data at nowhere/missing.txt; in {tmp_path} there is: folder/, one.txt"
    with pytest.raises(KiaraError, match="holds no text files: give the path of one"):
        find_inputs("folder/missing.txt")


def test_a_folder_without_texts_is_refused() -> None:
    Path("folder").mkdir()
    with pytest.raises(KiaraError, match=r"the folder folder holds no text that is known by its name"):
        find_inputs("folder")


def test_many_texts_are_not_all_listed() -> None:
    for index in range(15):
        Path(f"{index:02}.txt").write_text("x")
    with pytest.raises(KiaraError, match=r"09.txt and 5 more$"):
        find_inputs("missing.txt")
