"""Every command of the README runs, shortened by overrides; the page stays one page."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kiara_cli.app import main

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SHORT = [
    "model.n_layers=1", "model.emb_dim=32", "model.n_heads=2", "model.context_length=32", "train.batch_size=2",
    "tokenizer.vocab_size=320", "data.corpus_bytes=30000", "eval.max_tokens=4000", "eval.sample_tokens=4",
]  # fmt: skip
STEPS = {"train.max_steps=2000": "train.max_steps=3", "train.max_steps=3000": "train.max_steps=5"}


def commands() -> list[str]:
    """The lines of every shell block, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def run(line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a line, in this process if it is one command; return the exit status and what was said on the way."""
    if "|" in line:
        command = line.replace("kiara ", f"{shlex.quote(sys.executable)} -W error -m kiara_cli.app ")
        finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=600)
        return finished.returncode, finished.stderr
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hello\n")))
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(line)[1:])
    return int(stop.value.code or 0), capfd.readouterr().err


def shortened(line: str) -> str:
    for long, short in STEPS.items():
        line = line.replace(long, short)
    if line.startswith("kiara train") and "--resume" not in line:
        # what the line sets itself is left to it; -c small is small already
        extra = [word for word in SHORT if word.split("=")[0] not in line]
        extra += [] if "train.max_steps" in line else ["train.max_steps=2"]
        line += " " + " ".join(extra)
    if line.startswith("kiara tokenize"):
        line += " data.corpus_bytes=30000"
    return line


@pytest.mark.slow
def test_every_command_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mybook.txt").write_text("It was a dark and stormy night. Once the rain fell in torrents.\n" * 60)
    done = []
    for line in commands():
        if "nox" in line:
            continue  # the test command itself
        for part in line.split(" && "):
            if part.startswith("pip "):
                continue
            status, said = run(shortened(part), monkeypatch, capfd)
            assert status == 0, (part, said)
            assert "Traceback" not in said
            done.append(part.split()[1] if part.startswith("kiara") else part)
    assert {"train", "eval", "generate", "chat", "config", "tokenize"} <= set(done)


@pytest.mark.slow
def test_the_lines_of_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mybook.txt").write_text("It was a dark and stormy night. Once the rain fell in torrents.\n" * 60)
    for word in SHORT:
        key, value = word.split("=")
        monkeypatch.setenv(f"KIARA__{key.replace('.', '__').upper()}", value)
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(block.splitlines()) <= 10
    program = block.replace('"train.max_steps": 100', '"train.max_steps": 2')
    command = [sys.executable, "-W", "error", "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    status, measured, *written = ran.stdout.split("\n", 2)
    assert status.startswith("finished ")
    assert status.endswith(" checkpoints/from-python/best.pt")
    assert float(measured) > 0
    assert written[0].strip()


def test_the_readme_is_one_page_and_names_real_places() -> None:
    assert len(README.splitlines()) < 130
    tree = README.split("## Where things are")[1]
    root = Path(__file__).parent.parent
    for name in re.findall(r"^ +(\w+(?:/|\.py))", tree, flags=re.MULTILINE):
        assert list(root.glob(f"**/{name.rstrip('/')}")), name
