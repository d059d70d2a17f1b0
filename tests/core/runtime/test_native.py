import os
import shutil
import sys
from pathlib import Path

import pytest

from kiara_cli.core.generate import compiled
from kiara_cli.core.model import fused
from kiara_cli.core.runtime import native

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="there is no compiler")
posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are those of POSIX")
FOLDER = Path("caches/compiled")


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KIARA_CACHE", "caches")
    path = Path("twice.c").resolve()
    path.write_text("long twice(long x) { return 2 * x; }")
    return path


def made(source: Path) -> list[Path]:
    """Use the library as a new process would; return what is kept then."""
    native._loaded.clear()
    assert native.build(source, {"twice": "i"}).twice(21) == 42
    return sorted(FOLDER.glob("*.so"))


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.shutil, "which", lambda name: None)


def test_a_library_is_kept_and_needs_no_compiler_the_next_time(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (kept,) = made(source)
    assert {path.name for path in FOLDER.iterdir()} == {kept.name, kept.with_suffix(".sha256").name}
    no_compiler(monkeypatch)
    assert made(source) == [kept]


def test_another_source_or_header_is_another_library(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(source)
    source.write_text("long twice(long x) { return x + x; }")
    assert len(made(source)) == 2
    header = Path("numbers.h").resolve()
    header.write_text("/* another */")
    monkeypatch.setattr(native, "HEADER", header)
    assert len(made(source)) == 3


@posix
def test_the_folder_is_closed_to_others(source: Path) -> None:
    made(source)
    assert FOLDER.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("part", [".so", ".sha256"])
def test_what_is_damaged_is_made_again(source: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (kept,) = made(source)
    kept.with_suffix(part).unlink()  # what is mapped must not be written over
    kept.with_suffix(part).write_bytes(b"damaged")
    assert made(source) == [kept]
    no_compiler(monkeypatch)
    assert made(source) == [kept]


@posix
@pytest.mark.parametrize("whole_folder", [True, False])
def test_code_that_others_could_have_written_is_not_loaded(
    source: Path, whole_folder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept,) = made(source)
    (FOLDER if whole_folder else kept).chmod(0o777)
    no_compiler(monkeypatch)
    with pytest.raises(native.CompilerError, match="no C compiler"):
        made(source)


def test_a_folder_that_cannot_be_written_costs_the_keeping_alone(source: Path) -> None:
    FOLDER.parent.write_text("a file")
    assert made(source) == []


def test_tiny_numbers_of_the_whole_process_stay_what_they_are() -> None:
    fused.load()
    compiled.load()
    assert sys.float_info.min / 2 > 0, "loading a library set the processor to round them to 0"
