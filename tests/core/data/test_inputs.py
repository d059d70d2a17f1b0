"""A source is what a person means by it, or the answer says what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiara_cli.core.data.inputs import as_input, find_inputs
from kiara_cli.core.data.readers import read_documents
from kiara_cli.errors import KiaraError


@pytest.mark.parametrize(
    ("name", "kind", "packing"),
    [
        ("a.txt", "text", ""), ("A.TXT", "text", ""), ("a.md", "text", ""), ("a.py", "text", ""),
        ("LICENSE", "text", ""),
        ("a.jsonl", "jsonl", ""), ("a.JSONL.GZ", "jsonl", ".gz"), ("a.txt.zst", "text", ".zst"),
        ("a.parquet", "parquet", ""), ("00000_tokens.ds", "datatrove", ""),
    ],
)  # fmt: skip
def test_a_name_tells_how_to_read_a_file(name: str, kind: str, packing: str) -> None:
    found = as_input(name, 1)
    assert (found.kind, found.packing) == (kind, packing)


def test_several_sources_stand_on_a_line_each() -> None:
    for name in "abc":
        Path(f"{name}.txt").write_text(name)
    assert [found.address for found in find_inputs("b.txt\na.txt\n")] == ["b.txt", "a.txt"]


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
