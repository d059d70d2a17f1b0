"""A decode step: one new token for each of several sequences, each at its own position.

In: a token and a position per sequence, and the KV cache. Out: the scores of the next token, (B, V). It computes what
`Transformer` does, as tests show, with few operators and no walk through modules.

This is the version to read. Where a C compiler is found, compiled.c does the same without operator calls.

B sequences, D width, H heads, K key/value heads, C head width, S positions, L layers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.model.cache import to_int8
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize.layers import full, packed_of, product

Weights = Mapping[str, Tensor]
Layers = Sequence[Sequence[Tensor]]  # of the cache: keys, values, and in int8 their scales, (B, K, S, C or 1)

# For a single vector F.linear reads a large fp32 matrix with one thread, at 9 to 13 GB/s; multiplied and summed by
# two threads it is read at 21 to 26. Measured on 2 cores of a Zen 4.
LARGE = 2**17  # numbers from which on that is so: smaller matrices are in the processor's cache
BLOCK = 2**18  # numbers whose products are in memory at a time, so that they stay in the cache


def weights_of(model: Transformer) -> Weights:
    """Return all that a model multiplies with and looks up, by name, buffers included, without copying."""
    buffers = model.named_buffers(remove_duplicate=False)  # a quantized head may be the embedding's
    weights = {name: tensor.detach() for name, tensor in (*model.named_parameters(), *buffers)} | packed_of(model)
    return weights if "head.codes" in weights else weights | {"head.weight": model.head.weight.detach()}


def decode_step(
    config: ModelConfig,
    weights: Weights,
    dtype: torch.dtype,
    token: Tensor,
    position: Tensor,
    span: int,
    layers: Layers,
    visible: Tensor | None = None,
) -> Tensor:
    """Return the scores (B, V) after `token` (B,) at `position` (B,); the last position so far is span - 1.

    Vectors are in `dtype` between the products. `visible` (B, 1, 1, S) marks what each sequence may see; None: all.
    """
    slots = torch.arange(len(token), device=token.device)
    x = _look_up(weights, "tokens", token, dtype)  # (B, D)
    if config.positions != "rotary":
        table = weights["positions.table.weight" if config.positions == "learned" else "positions.table"]
        x = x + table[position].to(dtype)
    rotary = _rotary_at(weights["rotary.table"], position, dtype) if config.positions == "rotary" else None
    for layer in range(config.n_layers):
        name = f"blocks.{layer}"
        h = _norm(config, weights, f"{name}.norm_1", x)
        h = _product(weights, f"{name}.attention.qkv", h)
        q, k, v = _heads(config, weights, f"{name}.attention", h, rotary)
        k, v = _store(layers[layer], slots, position, span, k, v)
        y = _attend(q, k, v, visible).reshape(len(token), -1)
        x = x + _product(weights, f"{name}.attention.out", y)
        h = _norm(config, weights, f"{name}.norm_2", x)
        x = x + _feedforward(config, weights, f"{name}.feedforward", h)
    return _product(weights, "head", _norm(config, weights, "norm", x)).float()


def _product(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Multiply vectors x (B, K) with a matrix by name: a full one, or codes, packed where torch multiplies those."""
    bias = weights.get(f"{name}.bias")
    if (codes := weights.get(f"{name}.codes")) is not None:
        packed = weights.get(f"{name}.packed"), weights.get(f"{name}.packed_scales")
        return product(x, codes, weights[f"{name}.scales"], bias, packed)
    weight = weights[f"{name}.weight"]
    if x.shape[0] > 1 or weight.numel() < LARGE or not _reads_slowly(weight):
        return F.linear(x, weight, bias)
    y = torch.cat([(rows * x).sum(dim=-1) for rows in torch.split(weight, BLOCK // weight.shape[1] + 1)])[None]
    return y if bias is None else y + bias


def _reads_slowly(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.device.type == "cpu" and torch.get_num_threads() > 1


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """Let one query per head look at S positions: q (B, H, C); k, v (B, K, S, C); returns (B, H, C)."""
    few = k.shape[1] != q.shape[1]
    y = F.scaled_dot_product_attention(q[:, :, None], k.to(q.dtype), v.to(q.dtype), attn_mask=visible, enable_gqa=few)
    return y[:, :, 0]


def _look_up(weights: Weights, name: str, ids: Tensor, dtype: torch.dtype) -> Tensor:
    if (codes := weights.get(f"{name}.codes")) is not None:
        return full(codes[ids], weights[f"{name}.scales"][ids], dtype)
    return weights[f"{name}.weight"][ids].to(dtype)


def _norm(config: ModelConfig, weights: Weights, name: str, x: Tensor) -> Tensor:
    weight, bias = weights[f"{name}.weight"].to(x.dtype), weights.get(f"{name}.bias")
    if config.norm == "rmsnorm":
        return F.rms_norm(x, weight.shape, weight, config.norm_eps)
    return F.layer_norm(x, weight.shape, weight, None if bias is None else bias.to(x.dtype), config.norm_eps)


def _rotary_at(table: Tensor, position: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosines (B, 1, 1, C/2) and sines of a position, those of the first half negative: (B, 1, 2, C/2)."""
    cos, sin = table[:, position, None, None]
    signs = torch.arange(-1, 2, 2, device=table.device)[:, None]
    return cos.to(dtype), (sin * signs).to(dtype)


def _heads(
    config: ModelConfig, weights: Weights, name: str, x: Tensor, rotary: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut vectors into queries (B, H, C), keys and values (B, K, C); normalise and rotate the first two."""
    H, K, C = config.n_heads, config.n_kv_heads, config.head_dim
    heads = x.view(len(x), H + 2 * K, C)
    q, k, v = torch.split(heads, [H, K, K], dim=1)
    if config.qk_norm:
        q = _norm(config, weights, f"{name}.q_norm", q)
        k = _norm(config, weights, f"{name}.k_norm", k)
    if rotary is not None:
        both = torch.cat([q, k], dim=1) if config.qk_norm else heads[:, : H + K]
        halves = both.reshape(len(x), H + K, 2, C // 2)
        both = torch.addcmul(halves * rotary[0], halves.flip(2), rotary[1]).flatten(2)
        q, k = torch.split(both, [H, K], dim=1)
    return q, k, v


def _store(
    parts: Sequence[Tensor], slots: Tensor, position: Tensor, span: int, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Store each new key and value (B, K, C) at its position; return those of the first `span` positions."""
    if len(parts) == 2:
        for part, new in zip(parts, (k, v), strict=True):
            part[slots, :, position] = new.to(part.dtype)
        return parts[0][:, :, :span], parts[1][:, :, :span]
    (codes_k, scale_k), (codes_v, scale_v) = to_int8(k), to_int8(v)
    for part, new in zip(parts, (codes_k, codes_v, scale_k, scale_v), strict=True):
        part[slots, :, position] = new
    keys, values, of_keys, of_values = (part[:, :, :span] for part in parts)
    return keys * of_keys, values * of_values


def _feedforward(config: ModelConfig, weights: Weights, name: str, x: Tensor) -> Tensor:
    if config.feedforward == "swiglu":
        gate, up = _product(weights, f"{name}.gate_up", x).chunk(2, dim=-1)
        hidden = F.silu(gate) * up
    else:
        hidden = _product(weights, f"{name}.up", x)
        hidden = F.gelu(hidden, approximate="tanh") if config.feedforward == "gelu" else F.relu(hidden).square()
    return _product(weights, f"{name}.down", hidden)
