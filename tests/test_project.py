"""What is said of this project in more than one place is said alike."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOX = (ROOT / "noxfile.py").read_text(encoding="utf-8")
SESSIONS = re.findall(r"@nox\.session\ndef (\w+)", NOX)
JOBS = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]


def test_torch_is_bounded_alike_wherever_it_is_installed() -> None:
    (bound,) = (needed for needed in PROJECT["dependencies"] if needed.startswith("torch"))
    assert set(re.findall(r"torch>=[\d.,<]+", (ROOT / "Dockerfile").read_text(encoding="utf-8"))) == {bound}
    installs = [line for line in NOX.splitlines() if ("session.install(" in line and '"."' in line) or '".[' in line]
    assert len(installs) >= 5
    assert [line for line in installs if "TORCH" not in line] == []


def test_the_sessions_are_those_that_the_documents_name() -> None:
    assert {"tests", "lint", "types", "format", "docs", "train", "bench", "docker"} <= set(SESSIONS)
    assert set(NOX.splitlines()[0].split("nox -s ")[1].removesuffix('."""').split(" | ")) == set(SESSIONS)
    for path in ("CONTRIBUTING.md", "README.md", ".ci/run", ".github/workflows/ci.yml"):
        text = (ROOT / path).read_text(encoding="utf-8")
        named = {name for words in re.findall(r"nox\b[^\n]*? -s ([a-z ]+)", text) for name in words.split()}
        assert named, path
        assert named <= set(SESSIONS), path


def test_what_the_sessions_and_hooks_run_is_there() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    for path in re.findall(r"\"?((?:tests|\.ci)/[\w/]+\.py)", NOX + hooks):
        assert (ROOT / path).is_file(), path
    assert {hook["language"] for repo in yaml.safe_load(hooks)["repos"] for hook in repo["hooks"]} == {"system"}


def test_the_workflow_covers_the_systems_and_the_oldest_and_newest_that_are_promised() -> None:
    text = str(JOBS)
    assert {"ubuntu-latest", "macos-latest", "windows-latest"} <= set(re.findall(r"\w+-latest", text))
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert all(oldest in str(JOBS[name]) for name in ("stranger", "oldest"))
    assert {"nox -s release", "nox -s docker"} <= {step.get("run") for job in JOBS.values() for step in job["steps"]}


def test_the_changelog_says_what_changes_results_and_the_version_is_its_heading() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## ([\d.]+)", changes, re.MULTILINE)[0] == PROJECT["version"]
    entries = re.findall(r"^\* (.*)", changes, re.MULTILINE)
    odd = [
        entry
        for entry in entries
        if "changes results" in entry.lower() and not entry.startswith("**Changes results:** ")
    ]
    assert odd == []
    assert sum(entry.startswith("**Changes results:** ") for entry in entries) > 5
