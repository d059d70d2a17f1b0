"""Which architecture of other programs computes what a Kiara model computes.

In: a model config. Out: the architecture that expresses it, and the same model as that architecture wants it; or an
error that names the options in the way.

| architecture | positions            | norm      | feed-forward | heads                        | biases       |
|--------------|----------------------|-----------|--------------|------------------------------|--------------|
| qwen3        | rotary               | rmsnorm   | swiglu       | QK norm, any width, grouped  | none         |
| llama        | rotary               | rmsnorm   | swiglu       | any width, grouped           | none or all  |
| gpt2         | learned, sinusoidal¹ | layernorm | gelu, relu2² | emb_dim / n_heads, none grouped | none³ or all |

¹ as a table that is not trained further; ² not in GGUF; ³ as biases of 0.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kiara_cli.config.schema import ModelConfig
from kiara_cli.core.checkpoint.files import weights_of
from kiara_cli.core.model.positions import Sinusoidal
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError

LLAMA_LIKE: dict[str, tuple[Any, ...]] = {
    "positions": ("rotary",),
    "norm": ("rmsnorm",),
    "feedforward": ("swiglu",),
}
NEEDS: dict[str, dict[str, tuple[Any, ...]]] = {  # the values each architecture can express, best fit first
    "qwen3": LLAMA_LIKE | {"qk_norm": (True,), "bias": (False,)},
    "llama": LLAMA_LIKE | {"qk_norm": (False,)},
    "gpt2": {
        "positions": ("learned", "sinusoidal"),
        "norm": ("layernorm",),
        "feedforward": ("gelu", "relu2"),
        "qk_norm": (False,),
    },
}


def choose(config: ModelConfig, target: str, lacking: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Return the architecture that expresses every option. `lacking` names values that `target` misses besides.

    Raises KiaraError naming the options that stand in the way of the closest one.
    """
    obstacles = {name: _obstacles(config, name, (lacking or {}).get(name, {})) for name in NEEDS}
    best = min(obstacles, key=lambda name: len(obstacles[name]))
    if not obstacles[best]:
        return best
    has = ", ".join(f"model.{key}={_written(getattr(config, key))}" for key in obstacles[best])
    wants = " and ".join(f"model.{key}={_written(value)}" for key, value in obstacles[best].items())
    raise KiaraError(
        f"{target} has no architecture for this model: the closest, {best}, cannot express {has}",
        f"train with {wants} to export it so",
    )


def _obstacles(config: ModelConfig, name: str, lacking: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that an architecture cannot express, and what each would have to be."""
    needs = dict(NEEDS[name])
    found = {key: values[0] for key, values in needs.items() if getattr(config, key) not in values}
    found |= {key: needs[key][0] for key, value in lacking.items() if getattr(config, key) == value}
    if name == "gpt2":
        if config.n_kv_heads != config.n_heads:
            found["n_kv_heads"] = config.n_heads
        if config.head_dim * config.n_heads != config.emb_dim:
            found["head_dim"] = config.emb_dim // config.n_heads
    return found


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def as_architecture(
    config: ModelConfig, weights: Mapping[str, Tensor], name: str
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Write a model in the options that an architecture always has: GPT-2's biases and table of positions."""
    if name != "gpt2":
        return config, dict(weights)
    full = dataclasses.replace(config, bias=True, positions="learned")
    filled = {key: torch.zeros(shape) for key, shape in shapes(full).items()}
    if config.positions == "sinusoidal":
        filled["positions.table.weight"] = Sinusoidal(config).table
    return full, filled | dict(weights)


def shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Return the shape of each weight of a model, without making it."""
    with torch.device("meta"):
        return {name: weight.shape for name, weight in weights_of(Transformer(config)).items()}
