"""Variables that change how Kiara behaves are told, and those that look as if they did."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.core.lab.doctor import settings
from kiara_cli.core.lab.doctor.finding import Host
from kiara_cli.errors import KiaraError


@pytest.mark.parametrize(
    ("name", "value", "level", "shown"),
    [
        ("OMP_NUM_THREADS", "1", "warning", "1"),
        ("OMP_NUM_THREADS", "many", "warning", "many"),
        ("OMP_NUM_THREADS", "64,4", "ok", "64,4"),
        ("KIARA_API_KEY", "very secret", "ok", "(set)"),
        ("KIARA__RUNTIME__THREADS", "2", "ok", "2"),
        ("KIARA_MODEL_LAYERS", "2", "warning", "2"),
        ("TIKTOKEN_CACHE_DIR", "/nowhere/at/all", "warning", "/nowhere/at/all"),
        ("CUDA_VISIBLE_DEVICES", "x" * 80, "ok", "x" * 60 + "…"),
        ("ATEN_CPU_CAPABILITY", "avx2", "warning", "avx2"),
    ],
)
def test_a_variable_is_told_and_judged(
    name: str, value: str, level: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "physical_cores", lambda cpus: 4)
    found = settings.variable_finding(name, value)
    assert (found.level, found.value) == (level, shown)
    assert bool(found.remedy) == (level == "warning")


def test_only_variables_that_mean_something_are_listed(host: Host, named: Any) -> None:
    environment = {"HOME": "/", "KIARA_CACHE": "x", "EDITOR": "vi", "KIARA__MODEL__N_LAYERS": "3", "TERM": "xterm"}
    found = named(settings.look_at_settings(dataclasses.replace(host, environment=environment, columns=100)))
    assert set(found) == {"settings", "KIARA_CACHE", "KIARA__MODEL__N_LAYERS", "locale", "terminal"}
    assert "sets model.n_layers" in found["KIARA__MODEL__N_LAYERS"].meaning
    assert (found["settings"].value, found["terminal"].value) == ("all at their defaults", "100 columns, colours")


def test_settings_that_cannot_be_read_are_broken_with_their_own_remedy(host: Host, named: Any) -> None:
    fault = KiaraError("no key 'layers'", "write n_layers")
    found = named(settings.look_at_settings(dataclasses.replace(host, fault=fault)))["settings"]
    assert (found.level, found.value, found.remedy) == ("broken", fault.cause, fault.remedy)


def test_an_encoding_without_all_signs_and_a_dumb_terminal_are_warnings(host: Host, named: Any) -> None:
    poor = dataclasses.replace(host, encoding="ascii", columns=100, environment={"TERM": "dumb"})
    found = named(settings.look_at_settings(poor))
    assert {found[name].level for name in ("locale", "terminal")} == {"warning"}
    narrow = dataclasses.replace(host, columns=60, environment={"TERM": "xterm", "NO_COLOR": "1"})
    assert named(settings.look_at_settings(narrow))["terminal"].value == "60 columns, no colours (NO_COLOR)"


def test_every_variable_of_kiaras_own_is_known() -> None:
    package = Path(settings.__file__).parents[3]
    texts = [path.read_text(encoding="utf-8") for path in package.rglob("*.py")]
    own = {name for text in texts for name in re.findall(r"\"(KIARA_[A-Z]+(?:_[A-Z]+)*)\"", text)}
    assert {"KIARA_CACHE", "KIARA_API_KEY"} <= own <= set(settings.VARIABLES)
