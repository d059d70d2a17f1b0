"""Packages and extras are those of the package's own metadata."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest

from kiara_cli.core.lab.doctor import programs
from kiara_cli.core.lab.doctor.finding import Host

REQUIRES = [
    "torch<2.14,>=2.8", "numpy>=2.0", 'colorama; sys_platform == "never"', "pyarrow>=17; extra == 'data'",
    "fsspec; extra == 'data'", "kiara-slm[data]; extra == 'dev'", "nox>=2025.5; extra == 'dev'",
]  # fmt: skip


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Pretend these packages, and a Kiara that asks for `REQUIRES`."""
    found = {"kiara-slm": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.3.1", "pyarrow": "26.0", "fsspec": "2026.1"}

    def version(name: str) -> str:
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return found[name]

    class About:
        def get_all(self, field: str) -> list[str]:
            assert field == "Provides-Extra"
            return ["data", "dev"]

    monkeypatch.setattr(programs.metadata, "version", version)
    monkeypatch.setattr(programs.metadata, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(programs.metadata, "metadata", lambda name: About())
    return found


def test_what_is_needed_follows_markers_and_extras_of_extras(installed: dict[str, str]) -> None:
    assert [each.name for each in programs.needed()] == ["torch", "numpy"]
    assert [each.name for each in programs.needed("dev")] == ["pyarrow", "fsspec", "nox"]


def test_a_missing_package_is_broken_and_another_version_a_warning(
    installed: dict[str, str], named: Any, host: Host
) -> None:
    assert [each.level for each in programs.look_at_packages()] == ["ok"]
    del installed["numpy"]
    installed["torch"] = "2.15.0"
    found = named(programs.look_at_packages())
    assert (found["numpy"].level, found["numpy"].remedy) == ("broken", "pip install 'numpy>=2.0'")
    assert (found["torch"].level, found["torch"].value) == ("warning", "2.15.0, not <2.14,>=2.8")
    assert "packages" not in found


def test_an_extra_names_its_versions_or_how_to_get_it(installed: dict[str, str], named: Any, host: Host) -> None:
    found = named(programs.look_at_extras(host))
    assert found["data"].value == "pyarrow 26.0, fsspec 2026.1"
    assert (found["dev"].level, found["dev"].value) == ("off", "nox not installed")
    assert found["dev"].remedy == "pip install 'kiara-slm[dev]'"
    installed.pop("pyarrow"), installed.pop("fsspec")
    assert named(programs.look_at_extras(host))["data"].value == "not installed"


def test_a_torch_that_cannot_be_imported_is_broken_and_one_that_takes_long_is_not(
    installed: dict[str, str], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "TORCH", "raise ImportError('libtorch_cpu.so: cannot open')")
    found = programs.look_at_torch(host)
    assert (found.level, found.value) == ("broken", "ImportError: libtorch_cpu.so: cannot open")
    assert "'torch<2.14,>=2.8'" in found.remedy
    monkeypatch.setattr(programs, "TORCH", "import time; time.sleep(60)")
    slow = Host({}, deadline=0)
    assert programs.look_at_torch(slow).level == "warning"


def test_every_extra_that_has_words_is_one_of_the_package() -> None:
    extras = set(metadata.metadata("kiara-slm").get_all("Provides-Extra") or [])
    if not {"lab", "json"} <= extras:
        pytest.skip("Kiara is installed in an older version")
    assert set(programs.EXTRAS) <= extras
