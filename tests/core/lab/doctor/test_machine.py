"""Quota and memory are judged by what a training needs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.core.lab.doctor import machine
from kiara_cli.core.lab.doctor.finding import Host
from kiara_cli.core.runtime.memory import Memory

GB = 10**9


@pytest.mark.parametrize(
    ("memory", "level"),
    [
        (Memory(16 * GB, None, None, 8 * GB), "ok"),
        (Memory(16 * GB, GB, "ulimit -v", 7 * GB // 10), "warning"),
        (Memory(16 * GB, GB // 4, "a control group", GB // 5), "broken"),
        (Memory(GB // 4, None, None, None), "broken"),
        (Memory(None, None, None, None), "ok"),
    ],
)
def test_too_little_memory_is_broken_and_little_a_warning(memory: Memory, level: str) -> None:
    found = machine.memory_finding(memory)
    assert found.level == level
    assert bool(found.remedy) == (level != "ok")
    assert memory.limited_by is None or f"by {memory.limited_by}" in found.value


def test_a_cpu_quota_is_told_with_the_threads_that_it_leaves(
    host: Host, named: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "LISTEN", 0.01)
    monkeypatch.setattr(machine, "allowed_cpus", lambda: list(range(8)))
    monkeypatch.setattr(machine, "physical_cores", lambda cpus: 4)
    found = named(machine.look_at_machine(host))
    assert {"processor", "cores", "CPU quota", "memory"} <= set(found)
    assert (found["CPU quota"].level, found["CPU quota"].value) == ("ok", "none")
    assert found["cores"].value == "4 cores, 8 hardware threads"
    (tmp_path / "cgroup").write_text("0::/")
    (tmp_path / "cpu.max").write_text("100000 100000")
    limited = named(machine.look_at_machine(dataclasses.replace(host)))["CPU quota"]
    assert (limited.level, limited.value) == ("warning", "1 of 4 cores")
    assert limited.meaning.endswith("computes on 1 thread")
