"""Every command of docs/inspect.md runs, on a model so small that it says nothing of what the page does."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from kiara_cli.app import main

DOCS = (Path(__file__).parent.parent / "docs" / "inspect.md").read_text(encoding="utf-8")
SMALL = [
    "talks.jsonl", "model.emb_dim=32", "model.context_length=128", "train.batch_size=2", "train.max_steps=2",
    "tokenizer.kind=word",
    "eval.max_tokens=2000", "eval.sample_tokens=4", "runtime.native=false", "runtime.compile=false",
]  # fmt: skip


def run(line: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(line)[1:])
    assert stop.value.code == 0, line


@pytest.mark.slow
def test_every_command_of_the_page_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DEVICE": "cpu", "DTYPE": "fp32", "THREADS": "1"}.items():
        monkeypatch.setenv(f"KIARA__RUNTIME__{name}", value)
    said = (
        "Tell me a story about a fox and a lantern.",
        "Here is a cat.",
        "Who had the lantern?",
        "It was Otto the ",
    )
    roles = ("user", "assistant") * 2
    talks = [
        [{"role": role, "content": text} for role, text in zip(roles, (*said[:3], said[3] + animal), strict=True)]
        for animal in ("fox.", "cat.", "robot.") * 20
    ]
    Path("talks.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    run(f"kiara train {' '.join(SMALL)}")
    blocks = re.findall(r"```sh\n(.*?)```", DOCS, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 7
    for line in lines:
        more = " chat.max_new_tokens=8 --answer 'It was Otto the fox'" if "Otto" in line else ""
        if "--corrupt" in line:
            more = " --answer 'Here is a cat' --against 'Here is a robot'"
        run(line + more)
    assert capsys.readouterr().out.count("Surprisal: ") == 2
    assert Path("look.html").exists()
    assert Path("pictures/lens.png").exists()
