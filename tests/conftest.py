"""What every test gets: an empty folder as home and working folder, one thread, fixed seeds; and tiny models."""

from __future__ import annotations

import gc
import itertools
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from kiara_cli.config.model import ModelConfig
from kiara_cli.console import logs, output

# fmt: off
RARER: list[dict[str, Any]] = [  # what other people's models have
    {"residual": "parallel", "rotary_share": 0.5, "feedforward": "gelu_erf", "norm": "layernorm", "bias": True,
     "qk_norm": False},
    {"feedforward": "geglu", "norm": "rmsnorm_1p", "scale_embeddings": True, "tied_head": True, "qk_norm": False},
    {"attention_bias": "qkv", "qk_norm": False, "n_kv_heads": 2},
    {"attention_bias": "none", "bias": True, "rope_scaling": "linear", "rope_factor": 2.0},
    {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_context": 32, "qk_norm": False},
    {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_context": 12},
]
# fmt: on
torch.set_num_threads(1)
settings.register_profile(
    "kiara",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("kiara")


def pytest_collection_finish() -> None:
    """Leave what is there for good (torch, the tests) out of garbage collection, which took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for libraries made of C, one for all tests: a process of its own would spend 4 seconds on them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, _compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a test from the person's files and settings, and from the tests before it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("KIARA_") or name == "XDG_CACHE_HOME"]:
        monkeypatch.delenv(name)
    cache = tmp_path.with_name(tmp_path.name + "-cache")
    cache.mkdir()
    (cache / "compiled").symlink_to(_compiled)
    monkeypatch.setenv("KIARA_CACHE", str(cache))
    for logger in map(logging.getLogger, ("kiara", "kiara.access", None)):
        for handler in list(logger.handlers):  # of a command that ran in this process before, and its closed streams
            if type(handler).__module__ == logs.__name__ or logger.name != "root":
                logger.removeHandler(handler)
                handler.close()
        logger.propagate = True
    output.as_records(None)
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> ModelConfig:
    """Two layers of width 32."""
    return ModelConfig(vocab_size=64, context_length=16, emb_dim=32, n_heads=4, n_layers=2, tied_head=True)


@pytest.fixture(scope="session")
def every_model() -> list[ModelConfig]:
    """A tiny config for each combination of the options that change what a model computes, and the rarer ones."""
    grid = itertools.product(
        ("rotary", "learned", "sinusoidal"),
        ("rmsnorm", "layernorm"),
        ("swiglu", "gelu", "relu2"),
        (None, 2),
        *[(False, True)] * 3,
    )
    return [
        ModelConfig(
            vocab_size=64,
            context_length=16,
            emb_dim=32,
            n_heads=4,
            n_layers=2,
            positions=positions,
            norm=norm,
            feedforward=feedforward,
            n_kv_heads=kv_heads,
            qk_norm=qk_norm,
            bias=bias,
            tied_head=tied_head,
        )
        for positions, norm, feedforward, kv_heads, qk_norm, bias, tied_head in grid
    ] + [ModelConfig(vocab_size=64, context_length=16, emb_dim=32, n_heads=4, n_layers=2, **rarer) for rarer in RARER]
