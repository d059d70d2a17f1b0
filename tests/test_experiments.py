"""Every command of docs/experiments.md runs, shortened by overrides."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from kiara_cli.app import main

PAGE = (Path(__file__).parent.parent / "docs" / "experiments.md").read_text(encoding="utf-8")
SHORT = ["tokenizer.kind=char", "model.n_layers=1", "model.context_length=16", "train.batch_size=2",
         "train.max_steps=2", "train.log_interval=1", "eval.max_tokens=64", "eval.sample_tokens=0"]  # fmt: skip
SMALL = {"model.emb_dim=256": "model.emb_dim=64", "model.n_heads=8": "model.n_heads=2"}


def commands() -> list[list[str]]:
    """The words of each line of the shell blocks, `kiara` left out; trainings are shortened."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]
    words = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("kiara ")]
    train = ["model.emb_dim=32", "model.n_heads=4", *SHORT]
    short = {"train": train, "ablate": ["--seeds", "2", "--jobs", "1", "data.source=mybook.txt", *train]}
    found = []
    for line in words:
        head = 2 if line[0] == "runs" else 1
        found.append([*line[:head], *short.get(line[head - 1], []), *(SMALL.get(word, word) for word in line[head:])])
    return found


def test_every_command_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DEVICE": "cpu", "DTYPE": "fp32", "THREADS": "1", "NATIVE": "false"}.items():
        monkeypatch.setenv(f"KIARA__RUNTIME__{name}", value)
    monkeypatch.setattr("kiara_cli.core.train.loop.matrix_rate", lambda *given, **named: 1e11)  # measuring takes long
    (tmp_path / "mybook.txt").write_text("It was a dark and stormy night. Once the rain fell in torrents.\n" * 60)
    for name, study in re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL):
        (tmp_path / name).write_text(study)
    done = set()
    for words in commands():
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0, words
        done.add(words[1] if words[0] == "runs" else words[0])
    assert {"train", "list", "show", "compare", "plot", "ablate", "remove"} <= done
    assert not (tmp_path / "checkpoints" / "base-3").exists()
    assert (tmp_path / "curves.html").is_file()
