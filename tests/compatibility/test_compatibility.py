"""What earlier versions wrote is used by today's commands; README.md says which commit made each folder."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from kiara_cli.app import main

HERE = Path(__file__).parent
RUNS = {"first": "text", "conversations": "talks", "config-1": "text", "config-2": "text", "adapter": "text"}
SHAPE = ("model.context_length=64", "model.emb_dim=16", "model.n_heads=2", "model.n_layers=1", "tokenizer.kind=char")
SHORT = ("train.max_steps=1", "train.batch_size=2", "train.warmup_steps=0", "eval.sample_tokens=0")


@pytest.fixture(params=RUNS)
def era(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of what one version wrote, as the working folder."""
    shutil.copytree(HERE / request.param, tmp_path, dirs_exist_ok=True)
    for name, value in (("DEVICE", "cpu"), ("NATIVE", "false")):
        monkeypatch.setenv(f"KIARA__RUNTIME__{name}", value)
    return str(request.param)


def run(*words: str) -> tuple[int, str, str]:
    """Run a command; return its status and what it said."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main(list(words))
    return int(stop.value.code or 0), out.getvalue(), err.getvalue()


def done(*words: str) -> str:
    status, out, err = run(*words)
    assert status == 0, (words, err)
    return out


def test_a_run_of_an_earlier_version_is_measured_written_with_talked_to_and_gone_on_from(
    era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = RUNS[era]
    last, (folder,) = f"checkpoints/{name}/last.pt", Path("data").iterdir()
    stored = json.loads(done("eval", last, "--json"))
    recorded = [json.loads(line) for line in Path(f"checkpoints/{name}/metrics.jsonl").read_text().splitlines()]
    losses = [record["val_loss"] for record in recorded if "val_loss" in record]
    assert stored["loss"] == pytest.approx(losses[-1], rel=1e-3)  # what that version measured
    assert done("generate", last, "--prompt", "The", "--max-new-tokens", "2", "--greedy")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The cat\n")))
    done("chat", last, "chat.max_new_tokens=2")
    done("config", "-c", f"checkpoints/{name}/config.yaml")
    assert name in done("runs", "list")
    done("train", "--from", last, f"{name}.{'jsonl' if name == 'talks' else 'txt'}", "--name", "on", *SHORT)
    done("train", str(folder), "--name", "again", *SHAPE, *SHORT)


def test_a_run_of_an_earlier_version_is_resumed_or_one_line_says_why_not(
    era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KIARA__RUNTIME__NATIVE")  # the run has another value
    status, _, err = run("train", "--resume", "--name", RUNS[era], "train.max_steps=3")
    if era == "first":
        assert status == 2
        assert err.splitlines()[-1].startswith("error: checkpoints/text/last.pt holds the state of another optimizer")
        assert "kiara train --from checkpoints/text/last.pt" in err
        assert "Traceback" not in err
    else:
        assert status == 0, err
        assert json.loads(Path(f"checkpoints/{RUNS[era]}/run.json").read_text())["status"] == "finished"


def test_other_files_of_earlier_versions_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIARA__RUNTIME__DEVICE", "cpu")
    monkeypatch.setenv("KIARA__RUNTIME__NATIVE", "false")
    for era, path in (
        ("config-1", "small.pt"),
        ("config-1", "checkpoints/text/best.safetensors"),
        ("adapter", "checkpoints/adapted/best.pt"),
    ):
        shutil.copytree(HERE / era, tmp_path, dirs_exist_ok=True)
        assert done("generate", path, "--prompt", "The", "--max-new-tokens", "2", "--greedy"), path
