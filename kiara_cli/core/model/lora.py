"""Low-rank adapters (LoRA, Hu et al., 2021): two small matrices beside a frozen one, applied from outside.

In: a model. Out: the same model, whose chosen linear layers add alpha / rank × B A x to what they compute. A and B,
(rank, K) and (N, rank), are all that is trained. B begins at 0, so nothing changes before the first update. `merged`
adds the products to the weights for good: what decodes, measures and exports sees plain matrices, on fast paths.
With adapters in it, a model takes the plain path in decoding: see fastpath.py.

N outputs, K inputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import LoraConfig
from kiara_cli.core.model.fastpath import STANDS_FOR
from kiara_cli.core.model.initialize import NoDraws
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError

A, B = ".lora_a", ".lora_b"  # how the names of an adapter's weights end, after that of their layer


class LoraLinear(nn.Module):
    """A frozen linear layer (…, K) → (…, N), in full or quantized, and what is learned beside it."""

    def __init__(self, layer: nn.Module, config: LoraConfig) -> None:
        super().__init__()
        self.layer = layer
        rows, columns, device = int(layer.out_features), int(layer.in_features), _device(layer)  # type: ignore[arg-type]
        self.lora_a = nn.Parameter(torch.empty(config.rank, columns, device=device))
        self.lora_b = nn.Parameter(torch.zeros(rows, config.rank, device=device))
        self.scale, self.drop_rate = config.alpha / config.rank, config.dropout
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as Hu et al. do: uniform, ± 1 / sqrt(K)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.linear(F.dropout(x, self.drop_rate, self.training), self.lora_a)  # (…, rank)
        y: Tensor = self.layer(x)
        return y + (self.scale * F.linear(inner, self.lora_b)).to(y.dtype)


def add_adapters(model: Transformer, config: LoraConfig) -> Transformer:
    """Freeze all weights and put adapters beside the target layers. Raises KiaraError if a pattern names none."""
    targets = target_layers(model, config.targets)
    model.requires_grad_(False)
    for name in targets:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, LoraLinear(model.get_submodule(name), config))
    return model


def target_layers(model: Transformer, patterns: tuple[str, ...]) -> list[str]:
    """Return the names of the linear layers that the patterns mean, in the model's order."""
    linear = [
        name for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or STANDS_FOR.get(type(module)) is nn.Linear)
        and not (name == "head" and model.config.tied_head)  # the embedding's own matrix
    ]  # fmt: skip
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in linear):
            raise KiaraError(
                f"train.lora.targets: no linear layer is called {pattern}",
                f"a pattern may mean: {', '.join(name for name in linear if not re.match('blocks.[1-9]', name))}",
                key="train.lora.targets",
            )
    chosen = [name for name in linear if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise KiaraError("train.lora.targets names no layer", "leave it out", key="train.lora.targets")
    return chosen


def adapter_parameters(config: ModelConfig, lora: LoraConfig) -> int:
    """Count what is trained, without building the model. Raises KiaraError if a pattern names no layer."""
    with NoDraws(), torch.device("meta"):
        model = Transformer(config, initialized=False)
    layers = (model.get_submodule(name) for name in target_layers(model, lora.targets))
    return lora.rank * sum(layer.in_features + layer.out_features for layer in layers if isinstance(layer, nn.Linear))


def has_adapters(model: nn.Module) -> bool:
    """Say whether a model has adapters."""
    return any(isinstance(module, LoraLinear) for module in model.modules())


def adapter_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the adapters by name: blocks.0.attention.qkv.lora_a (rank, K), … .lora_b (N, rank)."""
    return {name: tensor for name, tensor in model.state_dict().items() if name.endswith((A, B))}


def layers_of(weights: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the names of the layers that an adapter's weights belong to."""
    return (name.removesuffix(A) for name in weights if name.endswith(A))


def merged(weights: Mapping[str, Tensor], adapter: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return a model's weights with those of an adapter added to them: W + alpha / rank × B A, in float32.

    Raises KeyError or ValueError for an adapter of another model.
    """
    out = dict(weights)
    for layer in layers_of(adapter):
        a, b, name = adapter[layer + A].float(), adapter[layer + B].float(), f"{layer}.weight"
        if (len(b), a.shape[1]) != tuple(out[name].shape):
            raise ValueError(f"{layer} is {tuple(out[name].shape)}, its adapter {(len(b), a.shape[1])}")
        out[name] = out[name].float() + alpha / len(a) * (b @ a)
    return out


def _device(layer: nn.Module) -> torch.device:
    return next(tensor for tensor in (*layer.parameters(), *layer.buffers())).device
