"""Compiling is decided by what it would save, and then by whether it works."""

from __future__ import annotations

import pytest
import torch

from kiara_cli.core.runtime import compile
from kiara_cli.core.runtime.compile import broken_toolchain, decide_compile

CPU = torch.device("cpu")


@pytest.fixture
def toolchain(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Stand in for the trial, which takes half a minute: what is in the list is what it finds."""
    found: list[str | None] = [None]
    monkeypatch.setattr(compile, "broken_toolchain", lambda device: found[0])
    return found


def test_a_short_run_is_not_compiled_and_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(device: torch.device) -> str | None:
        raise AssertionError("the toolchain was tried")

    monkeypatch.setattr(compile, "broken_toolchain", tried)
    assert decide_compile("auto", CPU, 60.0) == (False, "compiling would save about 4 s of 60 and cost about 40")
    assert decide_compile(False, CPU, 1e9) == (False, "runtime.compile=false")


def test_a_long_run_is_compiled_where_that_works(toolchain: list[str | None]) -> None:
    assert decide_compile("auto", CPU, 100_000.0) == (True, "compiling saves about 6000 s of 100000")
    toolchain[0] = "no C++ compiler"
    assert decide_compile("auto", CPU, 100_000.0) == (False, "the compiler does not work here: no C++ compiler")


def test_who_asks_for_it_gets_it_however_short_the_run(toolchain: list[str | None]) -> None:
    assert decide_compile(True, CPU, 1.0)[0]
    toolchain[0] = "no C++ compiler"
    assert decide_compile(True, CPU, 1.0) == (False, "the compiler does not work here: no C++ compiler")


def test_mps_is_not_compiled() -> None:
    assert broken_toolchain(torch.device("mps")) == "torch.compile is not ready for MPS"


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(function: object) -> object:
        raise RuntimeError("No working C++ compiler found\nand a long story")

    monkeypatch.setattr(torch, "compile", fails)
    assert broken_toolchain(CPU) == "No working C++ compiler found"
