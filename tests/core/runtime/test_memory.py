"""What a process may have is the least of machine, control groups and its own limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiara_cli.core.runtime.memory import Memory, read_memory
from kiara_cli.core.runtime.processor import processor_features, processor_name

GROUP, OWN = "a control group (container or job)", "ulimit -v"
MACHINE = "MemTotal:       8000 kB\nMemFree:  100 kB\nMemAvailable:    5000 kB\n"
KB = 1024
Tree = dict[str, str]
# fmt: off
LIMITS: list[tuple[str, Tree, Memory]] = [
    ("no control groups", {}, Memory(8000 * KB, None, None, 5000 * KB)),
    ("version 2, with files that are merely cached", {
        "proc/cgroup": "0::/job", "sys/job/memory.max": f"{2000 * KB}", "sys/job/memory.current": f"{1500 * KB}",
        "sys/job/memory.stat": f"anon 5\ninactive_file {500 * KB}\n",
    }, Memory(8000 * KB, 2000 * KB, GROUP, 1000 * KB)),
    ("the least of two, though more of it is free", {
        "proc/cgroup": "0::/a/b", "sys/a/b/memory.max": f"{1000 * KB}", "sys/a/b/memory.current": "0",
        "sys/a/memory.max": f"{3000 * KB}", "sys/a/memory.current": f"{2900 * KB}",
    }, Memory(8000 * KB, 1000 * KB, GROUP, 100 * KB)),
    ("no limit in version 2", {"proc/cgroup": "0::/", "sys/memory.max": "max"},
     Memory(8000 * KB, None, None, 5000 * KB)),
    ("version 1", {
        "proc/cgroup": "4:memory:/docker/4f\n2:cpu:/", "sys/memory/memory.limit_in_bytes": f"{900 * KB}",
        "sys/memory/memory.usage_in_bytes": f"{1000 * KB}",
        "sys/memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {300 * KB}",
    }, Memory(8000 * KB, 900 * KB, GROUP, 200 * KB)),
    ("no limit in version 1",
     {"proc/cgroup": "4:memory:/", "sys/memory/memory.limit_in_bytes": "9223372036854771712"},
     Memory(8000 * KB, None, None, 5000 * KB)),
    ("a group that has more than it may", {
        "proc/cgroup": "0::/", "sys/memory.max": f"{10 * KB}", "sys/memory.current": f"{20 * KB}",
    }, Memory(8000 * KB, 10 * KB, GROUP, 0)),
]
# fmt: on


@pytest.mark.parametrize(("tree", "expected"), [case[1:] for case in LIMITS], ids=[case[0] for case in LIMITS])
def test_memory_limits_of_both_versions_are_found_up_the_tree(tmp_path: Path, tree: Tree, expected: Memory) -> None:
    for name, text in {**tree, "meminfo": MACHINE}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_memory(tmp_path / "proc", tmp_path / "sys", tmp_path / "meminfo") == expected
    assert expected.most == min(expected.limit or 8000 * KB, 8000 * KB)


def test_the_own_limit_of_a_process_counts_and_a_system_that_says_nothing_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda what: (3_000_000, 4_000_000))
    found = read_memory(tmp_path, tmp_path, tmp_path / "nothing")
    assert (found.limit, found.limited_by, found.available) == (3_000_000, OWN, None)
    monkeypatch.delattr("os.sysconf")
    assert read_memory(tmp_path, tmp_path, tmp_path / "nothing").total is None


@pytest.mark.parametrize(
    ("text", "name", "features"),
    [
        ("processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu avx2 avx512f amx_bf16\n", "Xeon",
         ["avx2", "avx512f", "amx_bf16"]),
        ("BogoMIPS\t: 243.75\nFeatures\t: fp asimd bf16\n", None, ["asimd", "bf16"]),
        ("", None, []),
    ],
)  # fmt: skip
def test_a_processor_of_either_kind_is_read(tmp_path: Path, text: str, name: str | None, features: list[str]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert processor_features(tmp_path / "cpuinfo") == features
    found = processor_name(tmp_path / "cpuinfo")
    assert found == name if name else found
