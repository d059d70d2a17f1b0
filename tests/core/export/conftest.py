"""Small models of each architecture with weights that matter, and a tokenizer that has learned some merges."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.checkpoint.files import weights_of
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.tokenizer.bpe import BPETokenizer

TEXT = "The cat sat on the mat. It's a dog's life, we'll see 1234 things!\n\n  über 漢字 aaaaaaa bananas\r\n" * 300
GPT2: dict[str, Any] = {"positions": "learned", "norm": "layernorm", "feedforward": "gelu", "qk_norm": False}
NEOX: dict[str, Any] = {"norm": "layernorm", "qk_norm": False, "bias": True, "residual": "parallel"}
LLAMA3 = {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_context": 32, "rope_theta": 5e5}
OPTIONS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3-untied-grouped-wide": {"tied_head": False, "n_kv_heads": 2, "head_dim": 32, "rope_theta": 500.0},
    "llama": {"qk_norm": False, "n_kv_heads": 2, "norm_eps": 1e-5},
    "llama-biases": {"qk_norm": False, "bias": True, "tied_head": False},
    "llama-llama3": {"qk_norm": False, "attention_bias": "all", **LLAMA3},
    "qwen2-linear": {"qk_norm": False, "attention_bias": "qkv", "rope_scaling": "linear", "rope_factor": 2.0},
    "qwen2-yarn": {
        "qk_norm": False,
        "attention_bias": "qkv",
        "rope_scaling": "yarn",
        "rope_factor": 4.0,
        "rope_original_context": 12,
        "rope_theta": 1e6,
    },
    "gemma": {
        "qk_norm": False,
        "norm": "rmsnorm_1p",
        "feedforward": "geglu",
        "scale_embeddings": True,
        "tied_head": True,
        "n_kv_heads": 1,
        "head_dim": 32,
    },
    "gpt2": {**GPT2, "bias": True},
    "gpt2-plain": {**GPT2, "tied_head": False},
    "gpt2-sinusoidal": {**GPT2, "positions": "sinusoidal"},
    "gpt_neox": {**NEOX, "feedforward": "gelu_erf", "rotary_share": 0.5},
    "gpt_neox-sequential-plain": {**NEOX, "feedforward": "gelu", "residual": "sequential", "bias": False},
    "gpt2-relu2": {**GPT2, "feedforward": "relu2"},
}
RANGES = [(32, 127), (0, 32), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x600), (0x900, 0xE00), (0x2000, 0x2070)]
RANGES += [(0x3000, 0x3100), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF), (0x10000, 0x110000), (0x80, 0xD800)]
WORDS = [
    "'s",
    "'LL",
    " the ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "12345",
    "٣٤٥",
    "don't",
    "  \n \n x",
    "'ſ",
    "aaaa",
    "ß",
    "e\u0301",
]

Make = Callable[..., tuple[ModelConfig, Transformer, dict[str, torch.Tensor]]]


def folders() -> Any:
    """Return the module beside this one that writes folders of other people's models."""
    path = Path(__file__).with_name("folders.py")
    spec = importlib.util.spec_from_file_location("export_folders", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FOLDERS = folders()


@pytest.fixture(scope="module", params=FOLDERS.FAMILIES)
def family_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each family in turn, called after it."""
    written: Path = FOLDERS.write_folder(request.param, tmp_path_factory.mktemp("families") / request.param)
    return written


@pytest.fixture(params=OPTIONS)
def kind(request: pytest.FixtureRequest) -> str:
    """The name of each set of options in turn: its architecture, and what is special about it."""
    return str(request.param)


@pytest.fixture(scope="session")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.fit([TEXT], 400)


@pytest.fixture(scope="session")
def make() -> Make:
    """Return a function that makes a model of 2 layers × 64 whose every weight, biases and norms too, is random.

    It takes the name of a set of options, and more options.
    """

    def build(kind: str = "qwen3", **options: Any) -> tuple[ModelConfig, Transformer, dict[str, torch.Tensor]]:
        shape = {"vocab_size": 448, "context_length": 48, "emb_dim": 64, "n_heads": 4, "n_layers": 2}
        config = ModelConfig(**(shape | OPTIONS[kind] | options))
        torch.manual_seed(1)
        model = Transformer(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.1)
        return config, model, {name: weight.clone() for name, weight in weights_of(model).items()}

    return build


def unicode_strings(number: int, seed: int = 0) -> list[str]:
    """Make texts of words, odd spaces and characters from all over Unicode."""
    draw = random.Random(seed)

    def piece() -> str:
        kind = draw.random()
        if kind < 0.35:
            return draw.choice(WORDS)
        if kind < 0.6:
            return "".join(chr(draw.randrange(97, 123)) for _ in range(draw.randrange(1, 9)))
        code = draw.randrange(*draw.choice(RANGES))
        return "" if 0xD800 <= code < 0xE000 else chr(code)

    return ["".join(piece() for _ in range(draw.randrange(1, 40))) for _ in range(number)]


@pytest.fixture(scope="session")
def strings() -> list[str]:
    return unicode_strings(1000)
