"""Which architecture of other programs computes what a Kiara model computes.

In: a model config. Out: the architecture that expresses it, and the same model as that architecture wants it; or an
error that names the options in the way.

| architecture | positions            | norm       | feed-forward  | heads                       | biases           |
|--------------|----------------------|------------|---------------|-----------------------------|------------------|
| qwen3        | rotary               | rmsnorm    | swiglu        | QK norm, any width, grouped | none             |
| llama        | rotary               | rmsnorm    | swiglu        | any width, grouped          | none, all⁴       |
| mistral      | rotary               | rmsnorm    | swiglu        | any width, grouped          | none             |
| qwen2        | rotary               | rmsnorm    | swiglu        | emb_dim / n_heads, grouped  | queries … values |
| gemma        | rotary               | rmsnorm_1p | geglu         | any width, grouped          | none, attention⁵ |
| gpt2         | learned, sinusoidal¹ | layernorm  | gelu², relu2³ | emb_dim / n_heads           | none⁶ or all     |
| gpt_neox     | rotary, a share      | layernorm  | gelu², relu2³ | emb_dim / n_heads           | none⁶ or all     |

¹ as a table that is not trained further; ² both forms; llama.cpp computes the tanh form for either; ³ not in GGUF;
⁴ of attention and feed-forward apart, in GGUF too; ⁵ not in GGUF; ⁶ as biases of 0. gemma scales its embeddings,
gpt_neox may have a parallel residual, all with rotary positions may scale their frequencies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.checkpoint.files import weights_of
from kiara_cli.core.model.positions import Sinusoidal
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError

Lacking = Mapping[str, tuple[Any, ...]]  # values of options
ANY: tuple[Any, ...] = ()  # any value at all
PLAIN: dict[str, tuple[Any, ...]] = {
    "rotary_share": (1.0,),
    "residual": ("sequential",),
    "scale_embeddings": (False,),
    "qk_norm": (False,),
    "bias": (False,),
}
LLAMA_LIKE = PLAIN | {"positions": ("rotary",), "norm": ("rmsnorm",), "feedforward": ("swiglu",)}
NEEDS: dict[str, dict[str, tuple[Any, ...]]] = {  # the values each architecture can express, best fit first
    "qwen3": LLAMA_LIKE | {"qk_norm": (True,), "attention_bias": ("none",)},
    "llama": LLAMA_LIKE | {"bias": (False, True), "attention_bias": ("none", "all")},
    "mistral": LLAMA_LIKE | {"attention_bias": ("none",)},
    "qwen2": LLAMA_LIKE | {"attention_bias": ("qkv",)},
    "gemma": LLAMA_LIKE
    | {
        "norm": ("rmsnorm_1p",),
        "feedforward": ("geglu",),
        "scale_embeddings": (True,),
        "attention_bias": ("none", "all"),
    },
    "gpt2": PLAIN
    | {
        "positions": ("learned", "sinusoidal"),
        "norm": ("layernorm",),
        "feedforward": ("gelu", "gelu_erf", "relu2"),
        "bias": (True, False),
    },
    "gpt_neox": PLAIN
    | {
        "positions": ("rotary",),
        "rotary_share": ANY,
        "residual": ("sequential", "parallel"),
        "norm": ("layernorm",),
        "feedforward": ("gelu", "gelu_erf", "relu2"),
        "bias": (True, False),
    },
}
UNGROUPED = ("gpt2", "gpt_neox")  # as many heads of keys and values as of queries, emb_dim / n_heads wide


def choose(
    config: ModelConfig, target: str, lacking: Mapping[str, Lacking] | None = None, preferred: str | None = None
) -> str:
    """Return the architecture that expresses every option, the preferred one if it does.

    `lacking` names values that `target` misses besides.

    Raises KiaraError naming the options that stand in the way of the closest one.
    """
    obstacles = {name: _obstacles(config, name, (lacking or {}).get(name, {})) for name in NEEDS}
    best = min(obstacles, key=lambda name: (len(obstacles[name]), name != preferred))
    if not obstacles[best]:
        return best
    has = ", ".join(f"model.{key}={_written(_value(config, key))}" for key in obstacles[best])
    wants = " and ".join(f"model.{key}={_written(value)}" for key, value in obstacles[best].items())
    raise KiaraError(
        f"{target} has no architecture for this model: the closest, {best}, cannot express {has}",
        f"train with {wants} to export it so",
    )


def _obstacles(config: ModelConfig, name: str, lacking: Lacking) -> dict[str, Any]:
    """Return the options that an architecture cannot express, and what each would have to be."""
    needs = NEEDS[name]
    allowed = {key: values for key, values in needs.items() if values is not ANY}
    found = {key: values[0] for key, values in allowed.items() if _value(config, key) not in values}
    for key, values in lacking.items():
        if _value(config, key) in values:
            found[key] = next(value for value in needs.get(key, ("none",)) if value not in values)
    if name in UNGROUPED:
        if config.n_kv_heads != config.n_heads:
            found["n_kv_heads"] = config.n_heads
        if config.head_dim * config.n_heads != config.emb_dim:
            found["head_dim"] = None
    return found


def _value(config: ModelConfig, key: str) -> Any:
    return config.attention_biases if key == "attention_bias" else getattr(config, key)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def as_architecture(
    config: ModelConfig, weights: Mapping[str, Tensor], name: str
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Write a model in the options that an architecture always has: biases, GPT-2's table of positions."""
    if name not in UNGROUPED:
        return config, dict(weights)
    unbiased = name == "gpt_neox" and config.bias and config.attention_biases == "none"  # which it can express
    full = config.replace(
        bias=True,
        attention_bias="none" if unbiased else None,
        positions="learned" if name == "gpt2" else "rotary",
    )
    filled = {key: torch.zeros(shape) for key, shape in shapes(full).items()}
    if config.positions == "sinusoidal":
        filled["positions.table.weight"] = Sinusoidal(config).table
    return full, filled | dict(weights)


def shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Return the shape of each weight of a model, without making it."""
    with torch.device("meta"):
        return {name: weight.shape for name, weight in weights_of(Transformer(config)).items()}
