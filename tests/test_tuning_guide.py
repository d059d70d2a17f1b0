"""Every command of docs/tuning.md runs, shortened by overrides."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest

from kiara_cli.app import main

GUIDE = Path(__file__).parent.parent / "docs" / "tuning.md"
NAMES = ("cat", "dog", "hat", "mat", "log", "rat", "bat", "sun", "sea", "tea", "ant", "eel", "cow", "hen", "fox")
BASE = (
    "tokenizer.kind=char", "model.context_length=64", "model.emb_dim=32", "model.n_heads=4", "model.n_layers=1",
    "train.max_steps=2", "train.eval_interval=2", "eval.sample_tokens=0", "data.val_fraction=0.3",
    "train.batch_size=2",
)  # fmt: skip
SHORT = {
    "train": ("train.max_steps=2", "train.max_epochs=null", "eval.sample_tokens=0", "data.val_fraction=0.3"),
    "quantize": ("quantize.calibration_tokens=64", "quantize.tune_passes=0"),
}


def run(*words: str, stdin: str = "") -> str:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said), pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 0, f"{' '.join(words)}\n{said.getvalue()}"
    return said.getvalue()


def test_every_command_of_the_guide_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DEVICE": "cpu", "DTYPE": "fp32", "THREADS": "1"}.items():
        monkeypatch.setenv(f"KIARA__RUNTIME__{name}", value)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"who is cat\n")))
    talks = [{"prompt": f"who is {name}", "completion": f"the {name}"} for name in NAMES]
    pairs = [{"prompt": f"who is {name}", "chosen": f"the {name}", "rejected": "no"} for name in NAMES]
    for file, records in (("mine.jsonl", talks), ("more.jsonl", talks[:6]), ("pairs.jsonl", pairs)):
        Path(file).write_text("".join(json.dumps(record) + "\n" for record in records))
    run("train", "mine.jsonl", "--name", "CHECKPOINT", *BASE)
    blocks = re.findall(r"```\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.S)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert len(commands) >= 9
    for program, command, *words in commands:
        assert program == "kiara"
        run(command, *words, *SHORT.get(command, ()))
