"""A model with small matrices in place of its full ones.

In: a model and a scheme. Out: the same model, each matrix exchanged for its small form: filled by rounding
(`quantize`), or empty, for a checkpoint's numbers (`prepare`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kiara_cli.core.data.batches import Batch
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize.calibrate import moments
from kiara_cli.core.quantize.gptq import choose, gptq, objective
from kiara_cli.core.quantize.layers import Codes, QuantizedEmbedding, QuantizedLinear, full, pack
from kiara_cli.core.quantize.rounding import Small, fit_scales, to_nearest
from kiara_cli.core.quantize.scheme import WHOLE, Scheme
from kiara_cli.errors import KiaraError


@dataclass(frozen=True)
class Rounded:
    """A matrix was made small. Errors are of its products, relative to the products, on the calibration text; of its
    numbers where there was none."""

    name: str
    bits: int
    numbers: int
    error: float
    nearest_error: float  # what round-to-nearest would have left


def is_small(model: nn.Module) -> bool:
    """Say whether a model computes with codes."""
    return any(isinstance(module, Codes) for module in model.modules())


@torch.no_grad()
def quantize(model: Transformer, scheme: Scheme, batches: Iterable[Batch] | None = None) -> Iterator[Rounded]:
    """Make the matrices of a model small, one after the other; yield what became of each.

    GPTQ needs `batches` of text. Raises KiaraError for weights that are not numbers, or groups that do not divide.
    """
    check(model, scheme)
    model.eval()
    yield from _round(model, scheme, "tokens", None)
    if scheme.method == "gptq":
        assert batches is not None
        for name, hessian in moments(model, batches):
            yield from _round(model, scheme, name, hessian)
    else:
        for name in [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]:
            yield from _round(model, scheme, name, None)


def check(model: Transformer, scheme: Scheme) -> None:
    """Raise KiaraError if a model cannot be made small: before any of it is."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise KiaraError(
                f"{name} holds values that are not finite numbers",
                "its training has diverged: use an earlier checkpoint",
            )
    for name, layer in _matrices(model):
        if scheme.bits_of(name) != WHOLE:
            scheme.group_of(name, layer.weight.shape[1])


def prepare(model: Transformer, scheme: Scheme) -> None:
    """Exchange the matrices of a model for empty small ones, to be filled from a checkpoint."""
    for name, layer in _matrices(model):
        if scheme.bits_of(name) != WHOLE:
            _exchange(model, name, _small_layer(layer, scheme, name))


def full_weights(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's weights by name with every matrix in full."""
    out = {name: tensor for name, tensor in stored.items() if not name.endswith((".codes", ".scales"))}
    for name, codes in stored.items():
        if name.endswith(".codes"):
            place = name.removesuffix(".codes")
            out[f"{place}.weight"] = full(codes, stored[f"{place}.scales"], torch.float32)
    return out


def to_store(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as a small checkpoint stores them: embedding and head, where they stayed full, in bfloat16."""
    return {
        name: tensor.bfloat16() if name in ("tokens.weight", "head.weight") else tensor
        for name, tensor in weights.items()
    }


def in_dtype(model: Transformer, dtype: torch.dtype) -> Transformer:
    """Return a copy of a model that computes in `dtype`; small matrices are shared, not copied."""
    shared = {id(t): t for layer in model.modules() if isinstance(layer, Codes) for t in (layer.codes, layer.scales)}
    return copy.deepcopy(model, shared).to(dtype)


def pack_all(model: Transformer) -> None:
    """Arrange small matrices for the products that torch has on this processor, where it has any."""
    for layer in model.modules():
        if isinstance(layer, QuantizedLinear):
            pack(layer)


def _round(model: Transformer, scheme: Scheme, name: str, hessian: Tensor | None) -> Iterator[Rounded]:
    """Exchange one matrix, unless it is the embedding's own in its other role."""
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear | nn.Embedding)
    if name == "head" and model.config.tied_head:
        return
    weight, bits = layer.weight.detach().float(), scheme.bits_of(name)
    if bits == WHOLE:
        rounded = nearest = weight.bfloat16().float()
        layer.weight.copy_(rounded)
    else:
        group = scheme.group_of(name, weight.shape[1])
        scales = fit_scales(weight, bits, group)
        small = plain = to_nearest(weight, scales, bits)
        if hessian is not None:
            small = best_of(weight, bits, group, hessian, plain)
        new = _small_layer(layer, scheme, name).to(weight.device)
        new.fill(small)
        _exchange(model, name, new)
        rounded, nearest = small.full(), plain.full()
    yield Rounded(
        name, bits, weight.numel(), _relative(weight, rounded, hessian), _relative(weight, nearest, hessian)
    )


def best_of(weight: Tensor, bits: int, group: int, hessian: Tensor, plain: Small) -> Small:
    """Return GPTQ's codes on scales fitted to the inputs; rows that round-to-nearest does better keep its own."""
    small = gptq(weight, fit_scales(weight, bits, group, hessian.diagonal()), bits, hessian)
    return choose(weight, hessian, small, plain)


def _relative(weight: Tensor, rounded: Tensor, hessian: Tensor | None) -> float:
    if hessian is None:
        hessian = torch.eye(weight.shape[1], device=weight.device)
    whole = objective(weight, torch.zeros_like(weight), hessian).sum()
    return float((objective(weight, rounded, hessian).sum() / whole.clamp(min=1e-30)).sqrt())


def _matrices(model: Transformer) -> list[tuple[str, nn.Linear | nn.Embedding]]:
    found: list[tuple[str, nn.Linear | nn.Embedding]] = [("tokens", model.tokens)]
    return found + [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]


def _small_layer(layer: nn.Linear | nn.Embedding, scheme: Scheme, name: str) -> QuantizedLinear | QuantizedEmbedding:
    bits, group = scheme.bits_of(name), scheme.group_of(name, layer.weight.shape[1])
    if isinstance(layer, nn.Linear):
        return QuantizedLinear(bits, layer, group)
    return QuantizedEmbedding(bits, layer.num_embeddings, layer.embedding_dim, group)


def _exchange(model: Transformer, name: str, new: QuantizedLinear | QuantizedEmbedding) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, new)
    if name == "tokens" and model.config.tied_head:
        head = QuantizedLinear(new.bits, model.head, model.config.emb_dim // new.scales.shape[1]).to(new.codes.device)
        head.codes, head.scales = new.codes, new.scales
        model.head = head  # type: ignore[assignment]
