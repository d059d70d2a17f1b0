"""The page on hooks: its files are written as they stand there, and each of its commands runs, shortened."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from kiara_cli.app import main

PAGE = (Path(__file__).parent.parent / "docs" / "hooks.md").read_text(encoding="utf-8")
SHORT = (
    "model.n_layers=1", "model.emb_dim=32", "model.n_heads=4", "model.context_length=32", "train.batch_size=2",
    "tokenizer.vocab_size=300", "eval.max_tokens=400", "eval.sample_tokens=0", "train.max_steps=4",
    "train.log_interval=1", "runtime.device=cpu", "runtime.threads=1",
    "runtime.dtype=fp32", "runtime.native=false", "runtime.compile=false",
)  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    words = shlex.split(line)[1:]
    if words[0] == "train" and "--resume" not in words:
        words += SHORT
    if words[0] == "generate":
        words += ["--max-new-tokens", "3"]
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capsys.readouterr()
    assert not stop.value.code, (line, err)
    return out, err


def test_the_files_and_commands_of_the_page_on_hooks_run(capsys: pytest.CaptureFixture[str]) -> None:
    (program,), (config,) = blocks("python"), blocks("yaml")
    Path("my_ideas.py").write_text(program)
    Path("ideas.yaml").write_text(config)
    Path("book.txt").write_text("It was a dark and stormy night. Once the rain fell in torrents.\n" * 40)
    lines = [line for block in blocks("sh") for line in block.splitlines() if line]
    said = {line: run(line, capsys) for line in lines}
    (listed,) = [out for line, (out, _) in said.items() if "--list-hooks" in line]
    assert "suppress()  [forward]" in listed
    _, again = [err for line, (_, err) in said.items() if "--name ideas" in line]
    assert "Resuming ideas at step 4 of 8" in again
    records = [json.loads(line) for line in Path("checkpoints/ideas/metrics.jsonl").read_text().splitlines()]
    losses = [record for record in records if "loss" in record]
    assert [record["step"] for record in losses] == list(range(1, 9))
    assert all(record["aux_small"] == pytest.approx(0.01 * record["aux_small_value"]) for record in losses)
    facts = json.loads(Path("checkpoints/ideas/run.json").read_text())
    assert list(facts["hook_files"]) == ["my_ideas.py"]
    changed = json.loads(Path("checkpoints/calmer/run.json").read_text())
    assert changed["config_hash"] != facts["config_hash"]
    assert "slow" not in Path("checkpoints/calmer/config.yaml").read_text()

    check_that_its_checkpoint_runs_no_code(program, capsys)


def check_that_its_checkpoint_runs_no_code(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Opened without a file of hooks it is a plain model; it is resumed with the same file alone."""
    _, told = run("kiara generate checkpoints/ideas/best.pt --prompt It", capsys)
    assert "Its training had hooks (calm, gentle, slow, small); they are off here" in told
    Path("my_ideas.py").write_text(program + "\n")
    for words, message in (
        ("", "there is no hook 'soften'; if it is in a file of yours, give --hooks FILE"),
        ("--hooks my_ideas.py", "started with the hooks of my_ideas.py, and --hooks gives other code"),
        ("--hooks there_is_none.py", "--hooks there_is_none.py: No such file or directory; give a Python file"),
        ("--hooks my_ideas.py hooks.calm.with.factor=1", "the run to resume has hooks.calm.with.factor=0.5"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(shlex.split(f"train --resume --name ideas train.max_steps=9 {words}"))
        assert (stop.value.code, message in capsys.readouterr().err) == (2, True), message
    run("kiara train --resume --name ideas train.max_steps=9 --hooks my_ideas.py --allow-changed-hooks", capsys)
    Path("plain.py").write_text(program)
    _, told = run("kiara train book.txt -c small --hooks plain.py --dry-run", capsys)
    assert "The config uses nothing of plain.py, which registers soften, halve, Slower, small_stream" in told
