"""Whether Kiara's fast paths may stand in for a model: the one place that decides it.

In: a model. Out: None, or in one line why not. The decode steps of `generate` read weights and config, and the fused
loops of training replace single modules, so both are right only where every module is what the config makes and
nothing else happens on the way. Whatever is not known here takes the plain path: PyTorch's modules, one by one.

Whoever adds a setting to `ModelConfig` that the fast paths follow, a layer that they read or a function that they
put in a slot says so here: in `KNOWN`, by `stands_for`, or in `points.OWN`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import torch.nn.modules.module as torch_module
from torch import Tensor, nn

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.model.initialize import NoDraws
from kiara_cli.core.model.points import hooked, is_own, public_name
from kiara_cli.core.model.transformer import Transformer

ANY = None
KNOWN: dict[str, tuple[Any, ...] | None] = {  # settings that the decode steps follow, with the values that they know
    "positions": ("rotary", "learned", "sinusoidal"),
    "rotary_share": (1.0,),
    "norm": ("rmsnorm", "layernorm"),
    "feedforward": ("gelu", "relu2", "swiglu"),
    "residual": ("sequential",),
    "scale_embeddings": (False,),
} | dict.fromkeys(
    ("vocab_size", "context_length", "emb_dim", "n_heads", "n_kv_heads", "head_dim", "n_layers", "hidden_dim", "bias",
     "attention_bias", "qk_norm", "tied_head", "drop_rate", "norm_eps", "rope_theta", "rope_scaling", "rope_factor",
     "rope_original_context", "rope_low_freq", "rope_high_freq"), ANY
)  # fmt: skip
UNSEEN = {"training", "layer", "p", "inplace", "drop_rate"}  # attributes that change nothing in decoding
STANDS_FOR: dict[type[nn.Module], type[nn.Module]] = {}


def stands_for(new: type[nn.Module], old: type[nn.Module]) -> None:
    """Let the fast paths take a layer in the place of another: its weights are read from its buffers."""
    STANDS_FOR[new] = old


def why_plain(model: Transformer) -> str | None:
    """Return why a model takes the plain path, or None if the decode steps compute the same."""
    for name in unknown_settings(model.config):
        return f"the fast paths do not know model.{name}={getattr(model.config, name)}"
    return next((reason for _, reason in differences(model)), None)


def unknown_settings(config: ModelConfig) -> list[str]:
    """Return the names of settings whose value the decode steps do not know; one not in `KNOWN`: unless default."""
    out = []
    for item in dataclasses.fields(ModelConfig):
        known: tuple[Any, ...] | None = KNOWN.get(item.name, (item.default,))
        if known is not ANY and getattr(config, item.name) not in known:
            out.append(item.name)
    return out


def differences(model: Transformer) -> Iterator[tuple[str, str]]:
    """Yield the name of each module that is not what the config makes, and how it differs; "" is the model itself."""
    if type(model) is not Transformer:
        yield "", f"the model is a {type(model).__name__}"
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        yield "", "there is a hook on all modules"
    with NoDraws():
        made = dict(Transformer(dataclasses.replace(model.config, n_layers=1), initialized=False).named_modules())
    found = dict(model.named_modules())
    expected = {_in_layer(name, layer): name for name in made for layer in range(model.config.n_layers)}
    for name in (name for name in expected if name not in found):
        yield name, f"{name} is missing"
    for name, module in found.items():
        if not name and type(model) is not Transformer:
            continue
        reason = _difference(module, made[expected[name]]) if name in expected else "is not of this model"
        if reason is not None:
            yield name, f"{public_name(name) or 'the model'} {reason}"


def _in_layer(name: str, layer: int) -> str:
    return re.sub(r"^blocks\.0(?=\.|$)", f"blocks.{layer}", name)


def _difference(module: nn.Module, made: nn.Module) -> str | None:
    """Return how a module differs from the one that the config makes."""
    replaced = type(module) in STANDS_FOR
    if STANDS_FOR.get(type(module), type(module)) is not type(made):
        return f"is a {type(module).__name__}, not a {type(made).__name__}"
    if hooked(module):
        return "has a hook"
    for key, value in vars(module).items():
        shadowed = callable(getattr(type(module), key, None)) or callable(vars(made).get(key))
        if shadowed and value is not vars(made).get(key) and not (callable(value) and is_own(value)):
            return f"has another {key}"
    for key, value in vars(made).items():
        plain = isinstance(value, int | float | str | tuple | None) and not key.startswith("_")
        if plain and key not in UNSEEN and (not replaced or key in vars(module)) and vars(module).get(key) != value:
            return f"has {key}={vars(module).get(key)}, not {value}"
    if not replaced and _shapes(module) != _shapes(made):
        return "has weights of other names or shapes"
    return None


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    own: dict[str, Tensor | None] = {**module._parameters, **module._buffers}
    return {name: tuple(tensor.shape) for name, tensor in own.items() if tensor is not None}
