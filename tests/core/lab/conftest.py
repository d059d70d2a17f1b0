"""Folders of runs as they lie on disk, without any training."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.config.load import load_config, to_yaml
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import identity
from kiara_cli.core.checkpoint.run import Run

FACTS: dict[str, Any] = {
    "created": "2026-11-01T12:00:00+00:00", "status": "finished", "data": "book", "text_hash": "text",
    "data_hash": "data", "tokenizer_hash": "tokenizer", "code_hash": "code", "threads": 2, "torch": "2.13.0",
    "parameters": 1000, "flops_per_token": 6000, "steps": 20, "step": 20, "tokens": 200, "seconds": 4.0,
    "training_flops": 1_200_000, "peak_memory_bytes": 5_000_000,
}  # fmt: skip
MakeRun = Callable[..., Run]


@functools.cache
def config_of(*words: str) -> Config:
    return load_config(overrides=words).config


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Return a function that writes the folder of a finished run, of 20 steps that end at `loss`."""

    def make(name: str, *words: str, loss: float = 1.0, seed: int = 1, **facts: Any) -> Run:
        run = Run(tmp_path / "checkpoints", tmp_path / "checkpoints" / name)
        run.folder.mkdir(parents=True)
        config = config_of("train.max_steps=20", f"runtime.seed={seed}", *words)
        best = {"step": 20, "val_loss": loss, "val_bits_per_byte": loss / 2}
        known = {"run": name, "seed": seed, **FACTS, "val_loss": loss, "best": best, **facts}
        known = {key: value for key, value in known.items() if value is not None}
        defined = identity.definition(config, known)
        known |= {"results_hash": identity.results_hash(defined), "group_hash": identity.group_hash(defined)}
        (run.folder / "config.yaml").write_text(to_yaml(config))
        (run.folder / "run.json").write_text(json.dumps(known))
        rows: list[dict[str, Any]] = [
            {"step": step, "loss": loss + 20 - step, "tokens": 10 * step, "seconds": 0.2 * step, "lr": 0.1}
            for step in range(5, 21, 5)
        ]
        rows.insert(2, {"step": 10, "val_loss": loss + 1, "val_bits_per_byte": (loss + 1) / 2})
        (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, best]))
        return run

    return make


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the runs are."""
    return tmp_path / "checkpoints"
