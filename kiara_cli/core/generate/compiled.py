"""The tick as machine code: compiled.c, which does what `step.tick` does without an operator call in it.

In: a model's config, weights and cache. Out: a `Compiled` to call in place of `tick`, for one text or many. The
system's compiler makes it once in three seconds, for every model of every shape; the user's cache folder keeps it.
torch's own compiler was tried first: half a minute for each shape, 0.3 to 0.6 of this one's speed on models of 10 M
weights, whose ticks of half a millisecond are over before the calls between products are.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import CDLL, Array, addressof, c_int64
from pathlib import Path

import torch
from torch import Tensor

from kiara_cli.config.schema import ModelConfig
from kiara_cli.core.generate.step import Weights
from kiara_cli.core.model.cache import Cache
from kiara_cli.core.runtime import native

SOURCE = Path(__file__).with_suffix(".c")
SIGNATURES = {"tick": "ppppiippf", "workspace_bytes": "pi"}
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2, torch.uint8: 3}  # uint8: two 4-bit codes a byte
ACTIVATIONS = {"swiglu": 0, "gelu": 1, "relu2": 2}
BLOCK = 32  # columns that are multiplied at once: groups of columns with a scale of their own are multiples of it


def load() -> native.Library:
    """Return the library. Raises native.CompilerError."""
    return native.build(SOURCE, SIGNATURES)


def fits(weights: Weights, cache: Cache) -> bool:
    """Say whether compiled.c knows numbers such as these."""
    large = {name: tensor for name, tensor in weights.items() if tensor.dim() == 2 and not name.endswith(".scales")}
    groups = {name: tensor for name, tensor in weights.items() if name.endswith(".scales")}
    known = all(tensor.dtype in KINDS and tensor.is_contiguous() for tensor in (*large.values(), *cache.parts))
    return known and cache.keys.device.type == "cpu" and all(_whole(weights, name) for name in groups)


def _whole(weights: Weights, scales: str) -> bool:
    codes, groups = weights[scales.removesuffix("scales") + "codes"], weights[scales].shape[1]
    columns = codes.shape[1] * (2 if codes.dtype == torch.uint8 else 1)
    return groups == 1 or columns // groups % BLOCK == 0


class Compiled:
    """A compiled tick, bound to weights and a cache, both read where they lie."""

    def __init__(self, library: CDLL, config: ModelConfig, weights: Weights, cache: Cache, threads: int) -> None:
        self._library, self._epsilon, self._cache = library, config.norm_eps, cache
        self._made_of = config, weights, threads
        self._held: list[Tensor] = [*weights.values(), *cache.parts]  # what the plan points to
        self._plan = self._make_plan(config, weights, cache, threads)
        self._room = torch.zeros(0, dtype=torch.int8)
        self._texts = 0
        self._width = weights["head.codes" if "head.codes" in weights else "head.weight"].shape[0]

    def __call__(self, tokens: Sequence[int], rows: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Return the scores (B, V) after B tokens at these positions of the texts in these rows of the cache."""
        texts, plan = len(tokens), addressof(self._plan)
        if texts > self._texts:
            self._room = torch.zeros(self._library.workspace_bytes(plan, texts) + 64, dtype=torch.int8)
            self._texts = texts
        scores = torch.empty(texts, self._width)
        lists = ((c_int64 * texts)(*ids) for ids in (tokens, rows, positions))
        start = -self._room.data_ptr() % 64 + self._room.data_ptr()
        self._library.tick(plan, *lists, texts, self._texts, scores.data_ptr(), start, self._epsilon)
        return scores

    def on(self, cache: Cache) -> Compiled:
        """Return this one if it is bound to `cache`, or else another that is."""
        config, weights, threads = self._made_of
        return self if cache is self._cache else Compiled(self._library, config, weights, cache, threads)

    def _make_plan(self, config: ModelConfig, weights: Weights, cache: Cache, threads: int) -> Array[c_int64]:
        """Write down the fields of compiled.c's Plan in their order."""
        added = {"learned": "positions.table.weight", "sinusoidal": "positions.table"}.get(config.positions)
        fields = [
            config.n_layers, config.n_heads, config.n_kv_heads, config.head_dim, config.context_length,
            int(config.norm == "layernorm"), ACTIVATIONS[config.feedforward],
            cache.keys.shape[1], KINDS[cache.keys.dtype], threads,
            self._float(weights.get(added or "")), self._float(weights.get("rotary.table")),
            cache.keys.data_ptr(), cache.values.data_ptr(),
            *([0, 0] if cache.scales is None else [part.data_ptr() for part in cache.scales]),
            *self._matrix(weights, "tokens"), *self._norm(weights, "norm"), *self._matrix(weights, "head"),
        ]  # fmt: skip
        for layer in range(config.n_layers):
            name = f"blocks.{layer}"
            up = "gate_up" if config.feedforward == "swiglu" else "up"
            fields += self._norm(weights, f"{name}.norm_1")
            fields += self._matrix(weights, f"{name}.attention.qkv")
            fields += self._norm(weights, f"{name}.attention.q_norm")
            fields += self._norm(weights, f"{name}.attention.k_norm")
            fields += self._matrix(weights, f"{name}.attention.out")
            fields += self._norm(weights, f"{name}.norm_2")
            fields += self._matrix(weights, f"{name}.feedforward.{up}")
            fields += self._matrix(weights, f"{name}.feedforward.down")
        return (c_int64 * len(fields))(*fields)

    def _matrix(self, weights: Weights, name: str) -> list[int]:
        codes, scales = weights.get(f"{name}.codes"), weights.get(f"{name}.scales")
        numbers = weights[f"{name}.weight"] if codes is None else codes
        rows, columns = numbers.shape[0], numbers.shape[1] * (2 if numbers.dtype == torch.uint8 else 1)
        bias = self._float(weights.get(f"{name}.bias"))
        groups = 1 if scales is None else scales.shape[1]
        return [numbers.data_ptr(), self._float(scales), bias, KINDS[numbers.dtype], rows, columns, groups]

    def _norm(self, weights: Weights, name: str) -> list[int]:
        return [self._float(weights.get(f"{name}.weight")), self._float(weights.get(f"{name}.bias"))]

    def _float(self, tensor: Tensor | None) -> int:
        """Return where a small tensor lies as floats; 0 for none."""
        if tensor is None:
            return 0
        self._held.append(tensor.float().contiguous())
        return self._held[-1].data_ptr()
