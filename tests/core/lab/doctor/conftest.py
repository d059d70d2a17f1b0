"""A host of defaults, and trials that do not wait for torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from kiara_cli.core.lab.doctor.finding import Finding, Host

Named = Callable[[Iterable[Finding]], dict[str, Finding]]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Nothing is set, no control group limits anything."""
    return Host({}, proc=tmp_path, cgroups=tmp_path, deadline=time.monotonic() + 60)


@pytest.fixture
def named() -> Named:
    return lambda findings: {finding.name: finding for finding in findings}
