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


def script(folder: Path, name: str, lines: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def only_scripts(source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH whose `cc` knows no OpenMP, as Apple's, and tells no reason but that."""
    folder = Path("bin").resolve()
    script(folder, "cc", "echo \"clang: error: unsupported option '-fopenmp'\" >&2; exit 1")
    monkeypatch.setattr(native, "COMPILERS", ("cc", "gcc", "clang"))
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")  # the scripts need a system
    monkeypatch.setattr(native.shutil, "which", lambda name: str(p) if (p := folder / name).exists() else None)
    native._loaded.clear()
    return folder


@posix
def test_each_compiler_is_tried_and_the_one_that_works_is_named(source: Path, only_scripts: Path) -> None:
    real = Path("/usr/bin/cc").resolve()
    script(only_scripts, "clang", f'exec {real} "$@"')
    assert native.build(source, {"twice": "i"}).compiler == "clang"
    native._loaded.clear()
    assert native.build(source, {"twice": "i"}).compiler == "clang"  # the kept one


@posix
def test_a_compiler_without_openmp_gets_it_from_elsewhere(
    source: Path, only_scripts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    omp = Path("libomp").resolve()
    omp.mkdir()
    monkeypatch.setattr(native, "LIBOMP", ("/nowhere", str(omp)))
    said = f'case "$*" in *-Xpreprocessor\\ -fopenmp*-I{omp}/include*-L{omp}/lib*-lomp*) ;; *) exit 1;; esac'
    script(
        only_scripts,
        "cc",
        f'{said}\nshift $(($# - 7))  # what follows -lomp\nexec {Path("/usr/bin/cc").resolve()} "$@"',
    )
    assert native.build(source, {"twice": "i"}).compiler == "cc with libomp"


@posix
def test_the_error_says_what_each_compiler_said(source: Path, only_scripts: Path) -> None:
    script(only_scripts, "gcc", "echo 'gcc: fatal error: no input' >&2; exit 1")
    with pytest.raises(native.CompilerError, match="cc: clang: error: unsupported option.*; gcc: gcc: fatal error"):
        native.build(source, {"twice": "i"})


@posix
def test_trying_the_compilers_says_of_each_whether_what_it_makes_works(
    source: Path, only_scripts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path("/usr/bin/cc").resolve()
    script(only_scripts, "gcc", f'exec {real} "$@"')
    tried = dict(native.try_compilers())
    assert tried["gcc"] is None
    assert "unsupported option" in str(tried["cc"])
    no_compiler(monkeypatch)
    assert dict(native.try_compilers()) == {}


def test_a_library_in_use_that_cannot_be_replaced_or_removed_is_no_error(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where another process has loaded the kept file, and this one what it made."""

    def in_use(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "the process cannot access the file")

    monkeypatch.setattr(Path, "replace", in_use)
    monkeypatch.setattr(native.os, "unlink", in_use)
    assert made(source) == []


def test_tiny_numbers_of_the_whole_process_stay_what_they_are() -> None:
    fused.load()
    compiled.load()
    assert sys.float_info.min / 2 > 0, "loading a library set the processor to round them to 0"
