"""kiara runs ablate, as a person runs it: tiny trainings, made again, gone on with, and several at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Kiara = Callable[..., Any]

STUDY = """
baseline: {data.source: text.txt, runtime.native: false, runtime.compile: false}
variants:
  relu2: {model.feedforward: relu2}
  adamw: {group: true, train.optimizer: adamw, train.lr: 0.004}
seeds: 2
"""
TINY = (
    "tokenizer.kind=char", "model.context_length=16", "model.emb_dim=32", "model.n_layers=1", "train.max_steps=3",
    "train.batch_size=4", "train.eval_interval=1", "eval.sample_tokens=0",
)  # fmt: skip


def losses() -> dict[str, float]:
    runs = Path("checkpoints/study").glob("*/metrics.jsonl")
    return {path.parent.name: json.loads(path.read_text().splitlines()[-1])["val_loss"] for path in runs}


def test_a_study_is_run_reported_and_gone_on_with_and_is_the_same_however_many_go_at_once(
    kiara: Kiara, text: Path
) -> None:
    Path("study.yaml").write_text(STUDY)
    ran = kiara("runs", "ablate", "study.yaml", *TINY, "--jobs", "1", "--json")
    assert ran.status == 0, ran.err
    assert "1/6  baseline-seed1  finished" in ran.err
    assert "The report: checkpoints/study/report.html" in ran.err
    found = json.loads(ran.out)
    assert [arm["arm"] for arm in found["arms"]] == ["baseline", "relu2", "adamw"]
    assert {run["status"] for run in found["runs"]} == {"finished"}
    assert not list(Path("checkpoints").glob("*.pt"))
    first = losses()
    assert len(set(first.values())) == 6
    shutil.rmtree("checkpoints/study/adamw-seed2")
    ran = kiara("runs", "ablate", "study.yaml", *TINY, "--jobs", "2")
    assert ran.status == 0, ran.err
    assert "6/6  adamw-seed2  finished" in ran.err
    assert "baseline-seed1" not in ran.err
    assert losses() == first
    assert "adamw (train.optimizer=adamw, train.lr=0.004): " in ran.out
    again = kiara("runs", "ablate", "study.yaml", *TINY, "--report")
    assert (again.status, again.out) == (0, ran.out)
    line = kiara("runs", "ablate", "study.yaml", *TINY, "train.max_steps=4").mistake
    assert "has changed since the study checkpoints/study began: train.max_steps (3 → 4); " in line


def test_a_dry_run_shows_the_runs_and_writes_nothing(
    kiara: Kiara, text: Path, nothing_behind: Callable[[], None]
) -> None:
    Path("study.yaml").write_text(STUDY)
    nothing_behind()
    ran = kiara("runs", "ablate", "study.yaml", *TINY, "--dry-run")
    assert ran.status == 0, ran.err
    assert "relu2     model.feedforward=relu2: " in ran.out
    assert "6, 0 of them there already" in ran.out
    nothing_behind()


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ([], "name one: kiara runs ablate FILE.yaml"),
        (["nowhere.yaml"], "there is no file nowhere.yaml"),
        (["study.yaml", "--leave-one-out", "small", "fast"], "beside --leave-one-out"),
        (["study.yaml", "lr=3"], "settings are written SECTION.KEY=VALUE"),
        (["study.yaml", "--report"], "there is no study checkpoints/study yet"),
        (["--leave-one-out", "small", "small"], "small adds nothing to small"),
        (["text.txt"], "text.txt holds str, not sections"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_one_line(
    kiara: Kiara, text: Path, words: list[str], wrong: str
) -> None:
    Path("study.yaml").write_text(STUDY)
    Path("text.txt").write_text("no YAML mapping")
    assert wrong in kiara("runs", "ablate", *words).mistake
    assert not Path("checkpoints").exists()
