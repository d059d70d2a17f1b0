"""A tiny text, its data folder and a config to train on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.config.load import load_config
from kiara_cli.config.schema import Config
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.data.prepare import prepare

SETTINGS = (
    "tokenizer.kind=char",
    "data.source=text.txt",
    "model.context_length=16",
    "model.emb_dim=32",
    "model.n_heads=4",
    "model.n_layers=2",
    "train.batch_size=4",
    "train.max_steps=6",
    "train.log_interval=1",
    "train.eval_interval=3",
    "train.checkpoint_interval=2",
    "train.warmup_steps=0",
    "eval.sample_tokens=4",
    "runtime.device=cpu",
    "runtime.dtype=fp32",
    "runtime.threads=1",
)
Configure = Callable[..., Config]


@pytest.fixture
def settings() -> tuple[str, ...]:
    """Return the words of a tiny config."""
    return SETTINGS


@pytest.fixture
def configure() -> Configure:
    """Return a function from KEY=VALUE words to a config; the words come after those above."""

    def make(*words: str, **sections: Any) -> Config:
        return dataclasses.replace(load_config(overrides=(*SETTINGS, *words)).config, **sections)

    return make


@pytest.fixture
def data(configure: Configure) -> Prepared:
    Path("text.txt").write_text("the cat sat on the mat and the dog sat on the log. " * 40)
    config = configure()
    return prepare(config.data, config.tokenizer, Path("data"))
