"""The tick of one text as machine code: one loop over each weight at the speed of memory, no operator calls between.

In: a model's config, weights and cache. Out: a `Compiled` to call in place of `tick`, or None where there is none.
torch's own compiler writes C++ from `tick` and the system's compiler builds it, which takes half a minute; the result
is kept (`runtime/machine_code.py`) and serves every model of that shape. Loading it needs no compiler and no time.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kiara_cli.config.schema import ModelConfig
from kiara_cli.core.generate import step
from kiara_cli.core.generate.step import Weights, tick
from kiara_cli.core.runtime import machine_code
from kiara_cli.core.runtime.machine_code import Run


class Fused:
    """Products and attention as sums, which the compiler turns into loops that read each number once."""

    dtype = torch.float32

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x.as_strided(x.shape, x.stride())  # written out first, not computed again for each row of the weight
        y = (x[0] * weight.float()).sum(dim=-1)[None]
        return y if bias is None else y + bias.float()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        K, C = k.shape[1], k.shape[3]
        q = q[0].reshape(K, -1, 1, C)  # (K, H/K, 1, C)
        scores: Tensor = (q * k[0, :, None].float()).sum(dim=-1) * C**-0.5  # (K, H/K, S)
        mix: Tensor = scores.softmax(dim=-1)[..., None] * v[0, :, None].float()  # (K, H/K, S, C)
        return mix.sum(dim=2).reshape(1, K * q.shape[1], C)


class OneText(nn.Module):
    """`tick` for one row, with everything it reads as arguments: what is compiled holds no weight."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, token: Tensor, upto: Tensor, memory: list[list[Tensor]], weights: dict[str, Tensor]) -> Tensor:
        return tick(self.config, weights, Fused(), token, upto[-1:], upto.shape[0], memory)


class Compiled:
    """A compiled tick, bound to the weights and to the first row of a cache."""

    def __init__(self, run: Run, weights: Weights, memory: Sequence[Sequence[Tensor]], context: int) -> None:
        self._run = run
        self._upto = torch.arange(context)
        self._fixed = [part for layer in memory for part in layer] + [weights[name] for name in sorted(weights)]

    def __call__(self, token: Tensor, position: int) -> Tensor:
        """Return the scores (1, V) after `token` (1,) at `position`."""
        out: list[Tensor] = self._run([token, self._upto[: position + 1], *self._fixed])
        return out[0]


def key_of(config: ModelConfig, weights: Weights, memory: Sequence[Sequence[Tensor]], threads: int) -> str:
    """Name what the machine code depends on: shapes, dtypes, threads, torch, the processor, and these lines."""
    shape = dataclasses.asdict(config) | {"drop_rate": 0.0}
    dtypes = sorted({str(tensor.dtype) for tensor in weights.values()})
    return machine_code.key(
        lines=inspect.getsource(step) + inspect.getsource(Fused),
        tick=shape,
        weights=dtypes,
        memory=[str(part.dtype) for part in memory[0]],
        threads=threads,
    )


def build(config: ModelConfig, weights: Weights, memory: Sequence[Sequence[Tensor]], path: Path) -> None:
    """Compile the tick to a file. Raises KiaraError where the compiler is missing or fails."""
    token, upto = torch.zeros(1, dtype=torch.int64), torch.arange(3)
    ordered = {name: weights[name] for name in sorted(weights)}
    inputs = (token, upto, [list(layer) for layer in memory], ordered)
    length = torch.export.Dim("length", min=2, max=config.context_length - 1)  # all of it would be another layout
    nothing = (None, {0: length}, [[None] * len(layer) for layer in memory], dict.fromkeys(ordered))
    machine_code.build(OneText(config), inputs, nothing, path)
