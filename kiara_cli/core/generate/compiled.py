"""The decode step in C: compiled.c, which does what `step.decode_step` does without operator calls.

In: a model's config, weights and KV cache. Out: a `Compiled` to call in place of `decode_step`, for one sequence or
many. The system's compiler makes it once in three seconds, for every model of every shape; the user's cache folder
keeps it. torch's own compiler was tried first: half a minute for each shape, 0.3 to 0.6 of this one's speed on models
of 10 M weights, whose decode steps of half a millisecond are over before the calls between products are.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import Array, addressof, c_int64
from pathlib import Path

import torch
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.generate.step import Weights
from kiara_cli.core.model.cache import Cache
from kiara_cli.core.runtime import native

SOURCE = Path(__file__).with_suffix(".c")
SIGNATURES = {"decode_step": "ppppiippf", "workspace_bytes": "pi"}
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2, torch.uint8: 3}  # uint8: two 4-bit codes a byte
ACTIVATIONS = {"swiglu": 0, "gelu": 1, "relu2": 2}
BLOCK = 32  # columns that are multiplied at once: groups of columns with a scale of their own are multiples of it
# Fields of compiled.c's Plan: where the capacity is, where the layers begin, and how many fields a layer has. The
# first four of a layer are addresses in the cache.
THREADS, CAPACITY, LAYERS, LAYER = 7, 9, 28, 40


def load() -> native.Library:
    """Return the library. Raises native.CompilerError."""
    return native.build(SOURCE, SIGNATURES)


def unfit(weights: Weights, cache: Cache) -> str | None:
    """Return why compiled.c cannot compute with numbers such as these, or None."""
    if cache.device.type != "cpu":
        return f"the device is {cache.device.type}"
    large = [tensor for name, tensor in weights.items() if tensor.dim() == 2 and not name.endswith(".scales")]
    unknown = next((tensor for tensor in large if tensor.dtype not in KINDS or not tensor.is_contiguous()), None)
    if unknown is not None:
        return f"C knows no weights in {unknown.dtype}" if unknown.is_contiguous() else "weights are not contiguous"
    groups = (name for name in weights if name.endswith(".scales"))
    return None if all(_whole(weights, name) for name in groups) else f"groups of columns are no multiples of {BLOCK}"


def _whole(weights: Weights, scales: str) -> bool:
    codes, groups = weights[scales.removesuffix("scales") + "codes"], weights[scales].shape[1]
    columns = codes.shape[1] * (2 if codes.dtype == torch.uint8 else 1)
    return groups == 1 or columns // groups % BLOCK == 0


class Compiled:
    """A compiled decode step, bound to weights and a cache, both read where they are; the cache may be resized."""

    def __init__(
        self, library: native.Library, config: ModelConfig, weights: Weights, cache: Cache, threads: int
    ) -> None:
        self.library, self._epsilon = library, config.norm_eps
        self._held: list[Tensor] = list(weights.values())  # what the plan points to
        self._plan = self._make_plan(config, weights, cache, threads)
        self._workspace = torch.zeros(0, dtype=torch.int8)
        self._most = 0  # sequences that the workspace is for
        self._width = weights["head.codes" if "head.codes" in weights else "head.weight"].shape[0]
        self._vocab = weights["tokens.codes" if "tokens.codes" in weights else "tokens.weight"].shape[0]
        self.bind(cache)

    def __call__(self, tokens: Sequence[int], slots: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Return the scores (B, V) after B tokens at these positions of the sequences in these slots of the cache.

        Raises IndexError for what would be read or written outside of the embeddings and the cache.
        """
        batch, plan, cache = len(tokens), addressof(self._plan), self._cache
        if cache.moves != self._moves:
            self.bind(cache)
        for values, limit in ((tokens, self._vocab), (slots, cache.slots), (positions, cache.capacity)):
            if min(values) < 0 or max(values) >= limit:
                raise IndexError(f"{list(values)}: from 0 to {limit - 1}")
        if batch > self._most:
            self._workspace = torch.zeros(self.library.workspace_bytes(plan, batch) + 64, dtype=torch.int8)
            self._most = batch
        scores = torch.empty(batch, self._width)
        lists = ((c_int64 * batch)(*numbers) for numbers in (tokens, slots, positions))
        start = -self._workspace.data_ptr() % 64 + self._workspace.data_ptr()
        self.library.decode_step(plan, *lists, batch, self._most, scores.data_ptr(), start, self._epsilon)
        return scores

    def use(self, threads: int) -> None:
        """Compute on so many threads; no score changes."""
        if threads > self._plan[THREADS]:
            self._most = 0  # each needs a workspace
        self._plan[THREADS] = threads

    def bind(self, cache: Cache) -> None:
        """Use a cache of the same numbers, as it is now."""
        self._cache, self._moves, self._most = cache, cache.moves, 0
        self._plan[CAPACITY] = cache.capacity
        for layer, parts in enumerate(cache.layers):
            start = LAYERS + layer * LAYER
            self._plan[start : start + len(parts)] = [part.data_ptr() for part in parts]

    def _make_plan(self, config: ModelConfig, weights: Weights, cache: Cache, threads: int) -> Array[c_int64]:
        """List the fields of compiled.c's Plan in their order."""
        added = {"learned": "positions.table.weight", "sinusoidal": "positions.table"}.get(config.positions)
        fields = [
            config.n_layers, config.n_heads, config.n_kv_heads, config.head_dim, config.context_length,
            int(config.norm == "layernorm"), ACTIVATIONS[config.feedforward], threads,
            KINDS[cache.dtype], cache.capacity,
            self._float(weights.get(added or "")), self._float(weights.get("rotary.table")),
            *self._matrix(weights, "tokens"), *self._norm(weights, "norm"), *self._matrix(weights, "head"),
        ]  # fmt: skip
        for layer in range(config.n_layers):
            name = f"blocks.{layer}"
            up = "gate_up" if config.feedforward == "swiglu" else "up"
            assert len(fields) == LAYERS + layer * LAYER
            fields += [0, 0, 0, 0]  # see `bind`
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
        """Return the address of a small tensor as floats; 0 for none."""
        if tensor is None:
            return 0
        self._held.append(tensor.float().contiguous())
        return self._held[-1].data_ptr()
