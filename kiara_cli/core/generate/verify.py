"""Whether a compiled decode step computes what step.py does: compilers can be wrong, and so can we.

In: the library, a model's config and weights. Out: None, or what is wrong. Five sequences are compared at positions
where norms, rotation, softmax and weighted sum all matter; at the first position of an empty cache, rotation and
softmax do nothing. First on a small model of random weights in fp32, where the difference is rounding alone, then on
the model itself.

B sequences, K key/value heads, S positions, C head width, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.generate.compiled import Compiled
from kiara_cli.core.generate.step import Weights, decode_step, weights_of
from kiara_cli.core.model.cache import Cache, to_int8
from kiara_cli.core.model.verify import small_model
from kiara_cli.core.runtime.native import Library

POSITIONS = (3, 33, 70, 47, 0)  # one sequence more than C multiplies at once
SMALL = 1e-4  # the largest difference of a sequence's scores, relative to their spread: found 6e-7 on small models
EXACT = 1e-3  # in fp32, of a model of any depth
ROUGH = 0.1  # in bf16, 8 and 4 bits: found 0.006 to 0.013, and 0.1 to 1 where a function is wrong


@torch.inference_mode()
def disagreement(
    library: Library, config: ModelConfig, weights: Weights, dtype: torch.dtype, cache_dtype: torch.dtype
) -> str | None:
    """Compare compiled code with step.py; return what is wrong in one line."""
    small, exact = small_model(config).eval(), torch.float32
    found = difference(library, small.config, weights_of(small), exact, exact)
    if not found <= SMALL:
        return f"the compiled decode step computes other scores than torch, by {found:.1g} on a small model"
    found = difference(library, config, weights, dtype, cache_dtype)
    if math.isnan(found):
        return "the model's scores are not finite numbers"
    rounded = dtype != exact or cache_dtype != exact or any(name.endswith(".codes") for name in weights)
    if found > (ROUGH if rounded else EXACT):
        return f"the compiled decode step computes other scores than torch, by {found:.1g}"
    return None


def difference(
    library: Library, config: ModelConfig, weights: Weights, dtype: torch.dtype, cache_dtype: torch.dtype
) -> float:
    """Return how far the scores of the compiled step are from those of step.py, for the sequence where it is most.

    Relative to the spread of the scores. NaN where they are not finite.
    """
    batch, generator = len(POSITIONS), torch.Generator().manual_seed(0)
    positions = [min(position, config.context_length - 1) for position in POSITIONS]
    tokens = torch.randint(config.vocab_size or 1, (batch,), generator=generator)
    span, at = max(positions) + 1, torch.tensor(positions)
    caches = [Cache(config, batch, torch.device("cpu"), cache_dtype, span) for _ in range(2)]
    for first, second in zip(*(cache.layers for cache in caches), strict=True):
        for part, known in zip(first, random_states(first[0].shape, cache_dtype, generator), strict=True):
            part.copy_(known)
        for part, known in zip(second, first, strict=True):
            part.copy_(known)
    visible = (torch.arange(span) <= at[:, None])[:, None, None]  # (B, 1, 1, S)
    expected = decode_step(config, weights, dtype, tokens, at, span, caches[0].layers, visible)
    step = Compiled(library, config, weights, caches[1], torch.get_num_threads())
    found = step(tokens.tolist(), range(batch), positions)
    spread = (expected - expected.mean(dim=1, keepdim=True)).norm(dim=1)
    return float(((found - expected).norm(dim=1) / spread).max())


def random_states(shape: torch.Size, dtype: torch.dtype, generator: torch.Generator) -> list[Tensor]:
    """Return keys and values (B, K, S, C), and in int8 their scales, as a layer of the cache holds them."""
    keys, values = (torch.randn(shape, generator=generator) for _ in range(2))
    if dtype != torch.int8:
        return [keys, values]
    (keys, of_keys), (values, of_values) = to_int8(keys), to_int8(values)
    return [keys, values, of_keys, of_values]
