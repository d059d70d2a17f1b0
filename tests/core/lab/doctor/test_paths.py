"""Each fast path says on or off, and why, as a run decides it."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from typing import Any

import pytest

from kiara_cli.config.schema import RuntimeConfig
from kiara_cli.core.generate import backend
from kiara_cli.core.lab.doctor import paths
from kiara_cli.core.lab.doctor.finding import Host
from kiara_cli.core.model import fused
from kiara_cli.core.runtime import native

IN_C = ("writing in bf16", "writing in 8 bits", "writing in 4 bits", "training loops in C")
BF16 = RuntimeConfig(device="cpu", dtype="bf16", threads=1)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "COMPILE", "print()")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIARA_CACHE", "empty")
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    monkeypatch.setattr(native, "_loaded", {})


def looked(host: Host, named: Any, **runtime: Any) -> dict[str, Any]:
    found: dict[str, Any] = named(
        paths.look_at_paths(dataclasses.replace(host, runtime=dataclasses.replace(BF16, **runtime)))
    )
    return found


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no compiler")
def test_all_is_on_with_a_compiler_and_what_computes_wrongly_is_off(
    host: Host, named: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = looked(host, named)
    assert {found[name].level for name in (*IN_C, "torch.compile")} == {"ok"}, found
    assert all(found[name].value.startswith("on") for name in IN_C)
    assert found["several processes"].value.startswith("gloo")
    assert found["adaptive threads"].value == "off: runtime.threads=1"
    monkeypatch.setattr(backend, "disagreement", lambda *given: "it computes other scores")
    monkeypatch.setattr(fused, "loops_fault", lambda *given: "the C loops compute another output")
    monkeypatch.setattr(paths, "COMPILE", "print('no Triton')")
    wrong = looked(host, named)
    assert {wrong[name].level for name in IN_C} == {"warning"}
    assert "because it computes other scores" in wrong["writing in 4 bits"].value
    assert wrong["training loops in C"].value == "off: the C loops compute another output"
    assert (wrong["torch.compile"].level, wrong["torch.compile"].value) == ("off", "off: no Triton")


def test_without_a_compiler_every_path_in_c_says_so_and_what_takes_its_place(
    host: Host, named: Any, no_compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    found = looked(host, named)
    assert (found["C compiler"].level, found["C compiler"].value) == ("warning", "there is none")
    assert {found[name].level for name in IN_C} == {"warning"}
    assert all("no C compiler" in found[name].value for name in IN_C)
    assert found["torch.compile"].value == "off: there is no g++"
    assert any(words in found["writing in 8 bits"].value for words in ("torch's product", "the full matrix"))
    demanded = looked(host, named, native=True)
    assert demanded["writing in bf16"].level == "broken"
    assert demanded["writing in bf16"].remedy == "install gcc or clang, or set runtime.native=auto"


def test_what_is_switched_off_by_a_setting_is_no_warning(host: Host, named: Any) -> None:
    found = looked(host, named, native=False, dtype="fp32")
    assert {found[name].level for name in ("writing in fp32", *IN_C[1:])} == {"off"}
    assert "runtime.native=false" in found["writing in fp32"].value


def test_a_compilation_that_takes_too_long_is_not_waited_for(
    host: Host, named: Any, monkeypatch: pytest.MonkeyPatch, no_compiler: None
) -> None:
    monkeypatch.setattr(paths.shutil, "which", lambda name: name if "++" in name else None)
    monkeypatch.setattr(paths, "COMPILE", "import time; time.sleep(60)")
    assert looked(dataclasses.replace(host, deadline=0), named)["torch.compile"].value.startswith("not known")
