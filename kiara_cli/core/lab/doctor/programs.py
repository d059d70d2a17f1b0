"""Python, torch and the packages that Kiara needs; the extras, whose names and versions the package's metadata has.

In: a host. Out: findings.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import kiara_cli
from kiara_cli.core.lab.doctor.finding import Finding, Host
from kiara_cli.core.lab.doctor.trial import Trial

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = "kiara-slm"
TORCH = """
import numpy, torch
a = torch.ones(64, 64)
right = all(float((a.to(t) @ a.to(t)).sum()) == 64**3 for t in (torch.float32, torch.bfloat16))
assert right, "torch multiplies wrongly"
print(torch.__version__)
"""
SHOWN = 6  # packages of an extra that are named
EXTRAS = {  # what an extra is for; one that is not named here is told by its packages
    "data": "reads .parquet and .zst files and addresses such as s3://",
    "json": "answers that are valid JSON by schema",
    "export": "imports, GGUF, --check, tokenizers of other models",
    "lab": "pictures and the statistics of studies",
    "eval": "tasks of lm-evaluation-harness",
    "retrieval": "indexes: ranking by words, large ones by vectors, PDF files",
    "track": "TensorBoard and Weights & Biases",
    "dev": "what developers of Kiara need",
}


def look_at_programs(host: Host) -> Iterator[Finding]:
    """Look at Python, Kiara and torch, then at every package that is needed."""
    yield Finding("Python", "ok", f"{platform.python_version()} ({sys.executable})", "what runs Kiara")
    place = Path(kiara_cli.__file__).parent
    try:
        version = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        yield Finding(
            "Kiara",
            "warning",
            f"from source, {place}",
            "what packages it needs is known to an installed one alone",
            "pip install .",
        )
        yield look_at_torch(host)
        return
    yield Finding("Kiara", "ok", f"{version} ({place})", "what you ask")
    yield look_at_torch(host)
    yield from look_at_packages()


def look_at_torch(host: Host) -> Finding:
    """Import it and multiply in another process, which an instruction that is not there may end."""
    outcome = Trial(TORCH, host.environment).outcome(host.seconds_left)
    meaning = "computes everything"
    if not outcome.finished:
        return Finding("torch", "warning", "its import takes long", meaning, "try again; is the disk slow or busy?")
    if outcome.failure is not None:
        wanted = next((str(each.specifier) for each in needed() if each.name == "torch"), "")
        remedy = f"pip install --force-reinstall 'torch{wanted}', as PyTorch's own install page says"
        return Finding("torch", "broken", outcome.failure, f"{meaning}: without it no command works", remedy)
    return Finding("torch", "ok", outcome.printed, f"{meaning}; it imports and multiplies")


def look_at_packages() -> Iterator[Finding]:
    """Compare what is installed with what the metadata asks for."""
    wanted = list(needed())
    faults = [(each, fault) for each in wanted if (fault := lack(each))]
    if not faults:
        yield Finding("packages", "ok", f"all {len(wanted)} that Kiara needs", "each in a version that it knows")
    for each, fault in faults:
        missing = fault == "not installed"
        yield Finding(
            each.name,
            "broken" if missing else "warning",
            fault,
            f"Kiara needs {each.name}{each.specifier}",
            f"pip install '{each.name}{each.specifier}'",
        )


def look_at_extras(host: Host) -> Iterator[Finding]:
    """Say of each extra which packages of it are there, or how to install it."""
    try:
        extras = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return
    for extra in extras:
        packages = list(needed(extra))
        lacks = [f"{each.name} {fault}" for each in packages if (fault := lack(each))]
        purpose = EXTRAS.get(extra) or f"brings {', '.join(each.name for each in packages)}"
        if not lacks:
            versions = ", ".join(f"{each.name} {metadata.version(each.name)}" for each in packages)
            yield Finding(
                extra, "ok", versions if len(packages) <= SHOWN else f"all {len(packages)} packages", purpose
            )
        else:
            some = len(lacks) < len(packages)
            value = ", ".join(lacks) if some else "not installed"
            yield Finding(extra, "off", value, purpose, f"pip install '{PACKAGE}[{extra}]'")


def needed(extra: str = "") -> Iterator[Requirement]:
    """Yield what Kiara asks for on this machine: always, or more for an extra; extras of its own are followed."""
    from packaging.requirements import Requirement

    yield from _needed([Requirement(text) for text in _requires()], {extra}, set())


def _needed(all_of_it: list[Requirement], extras: Iterable[str], seen: set[str]) -> Iterator[Requirement]:
    for extra in sorted(set(extras) - seen):
        seen.add(extra)
        for each in all_of_it:
            here = each.marker is None or each.marker.evaluate({"extra": extra})
            if not here or (extra and (each.marker is None or each.marker.evaluate({"extra": ""}))):
                continue
            if each.name == PACKAGE:
                yield from _needed(all_of_it, each.extras, seen)
            else:
                yield each


def _requires() -> list[str]:
    try:
        return metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return []


def lack(wanted: Requirement) -> str | None:
    """Say what is wrong with an installed package, or that it is not there; None: it is as wanted."""
    try:
        found = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return "not installed"
    return None if wanted.specifier.contains(found, prereleases=True) else f"{found}, not {wanted.specifier}"
