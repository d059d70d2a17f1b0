"""Threads are what this process may use, in a quota of either kind as on the whole machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kiara_cli.core.runtime.threads import Allowance, allowed_threads, allowed_workers, cpu_quota, physical_cores

Tree = dict[str, str]


def write(root: Path, tree: Tree) -> tuple[Path, Path]:
    """Return folders in the place of /proc/self and /sys/fs/cgroup."""
    for name, text in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root / "proc", root / "sys"


QUOTAS: list[tuple[str, Tree, float | None]] = [
    ("version 2", {"proc/cgroup": "0::/jobs/kiara", "sys/jobs/kiara/cpu.max": "150000 100000"}, 1.5),
    ("a group above", {"proc/cgroup": "0::/a/b", "sys/a/b/cpu.max": "max 100000", "sys/a/cpu.max": "10000 5000"}, 2),
    (
        "the least of two",
        {"proc/cgroup": "0::/a/b", "sys/a/b/cpu.max": "400000 100000", "sys/a/cpu.max": "50000 100000"},
        0.5,
    ),
    ("a container that sees its own top alone", {"proc/cgroup": "0::/box/4f2c", "sys/cpu.max": "200000 100000"}, 2),
    ("a group outside of the container's view", {"proc/cgroup": "0::/../../x", "sys/cpu.max": "100000 100000"}, 1),
    ("no limit", {"proc/cgroup": "0::/", "sys/cpu.max": "max 100000"}, None),
    (
        "version 1",
        {
            "proc/cgroup": "5:memory:/m\n4:cpu,cpuacct:/job\n1:name=systemd:/",
            "sys/cpu,cpuacct/job/cpu.cfs_quota_us": "300000",
            "sys/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
        },
        3,
    ),
    (
        "version 1 without a limit, below one with",
        {
            "proc/cgroup": "1:cpu:/docker/4f2c\n0::/",
            "sys/cpu/docker/4f2c/cpu.cfs_quota_us": "-1",
            "sys/cpu/docker/4f2c/cpu.cfs_period_us": "100000",
            "sys/cpu/cpu.cfs_quota_us": "50000",
            "sys/cpu/cpu.cfs_period_us": "100000",
        },
        0.5,
    ),
    ("no control groups", {}, None),
    ("nonsense", {"proc/cgroup": "0::/", "sys/cpu.max": "much 0"}, None),
]  # fmt: skip


@pytest.mark.parametrize(("tree", "expected"), [case[1:] for case in QUOTAS], ids=[case[0] for case in QUOTAS])
def test_cpu_quotas_of_both_versions_are_found_up_the_tree(
    tmp_path: Path, tree: Tree, expected: float | None
) -> None:
    assert cpu_quota(*write(tmp_path, tree)) == expected


def machine(
    root: Path, monkeypatch: pytest.MonkeyPatch, allowed: set[int], quota: str = "max 100000"
) -> dict[str, Path]:
    """Pretend a machine of 8 cores with two hardware threads each, of which some are allowed."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: allowed, raising=False)
    siblings = {f"cpus/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 8},{cpu % 8 + 8}" for cpu in range(16)}
    proc, cgroups = write(root, {"proc/cgroup": "0::/", "sys/cpu.max": quota, **siblings})
    return {"cpus": root / "cpus", "proc": proc, "cgroups": cgroups}


def test_threads_are_the_least_of_cores_affinity_quota_and_openmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = machine(tmp_path, monkeypatch, set(range(16)))
    assert allowed_threads(**paths) == Allowance(8, None)
    assert allowed_threads(16, **paths) == Allowance(8, None)
    assert allowed_threads(3, **paths) == Allowance(3, "OMP_NUM_THREADS or the program that Kiara runs in")
    paths = machine(tmp_path, monkeypatch, {0, 8, 1})
    assert allowed_threads(**paths) == Allowance(2, None)
    paths = machine(tmp_path, monkeypatch, set(range(16)), "150000 100000")
    assert allowed_threads(16, **paths) == Allowance(2, "a CPU quota of 1.5 cores")
    paths = machine(tmp_path, monkeypatch, set(range(16)), "10000 100000")
    assert allowed_threads(**paths).threads == 1


def test_work_that_shares_nothing_uses_every_hardware_thread_within_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = machine(tmp_path, monkeypatch, set(range(16)))
    assert allowed_workers(paths["proc"], paths["cgroups"]) == 16
    paths = machine(tmp_path, monkeypatch, set(range(16)), "250000 100000")
    assert allowed_workers(paths["proc"], paths["cgroups"]) == 3


def test_cores_are_counted_where_nothing_is_known_of_them(tmp_path: Path) -> None:
    assert physical_cores([0, 1, 2], tmp_path) == 3
    assert physical_cores([], tmp_path) == 1
