"""Whether a compiled decode step computes what step.py does: compilers can be wrong, and so can we.

In: a compiled step, with the model's config and weights. Out: None, or what is wrong. Five sequences are compared at
positions where norms, rotation, softmax and weighted sum all matter; at the first position of an empty cache, rotation
and softmax do nothing. First on a small model of random weights in fp32, where the difference is rounding alone, then
on the model itself.

B sequences, K key/value heads, S positions, C head width, V vocabulary.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from kiara_cli.config.schema import ModelConfig
from kiara_cli.core.generate.compiled import Compiled
from kiara_cli.core.generate.step import Weights, decode_step, weights_of
from kiara_cli.core.model.cache import Cache, to_int8
from kiara_cli.core.model.transformer import Transformer

POSITIONS = (3, 33, 70, 47, 0)  # one sequence more than C multiplies at once
SMALL = 1e-4  # the largest difference of a sequence's scores, relative to their spread: found 6e-7 on small models
EXACT = 1e-3  # in fp32, of a model of any depth
ROUGH = 0.1  # in bf16, 8 and 4 bits: found 0.006 to 0.013, and 0.1 to 1 where a function is wrong


@torch.inference_mode()
def disagreement(
    made: Compiled, config: ModelConfig, weights: Weights, dtype: torch.dtype, cache: Cache
) -> str | None:
    """Compare; return what is wrong in one line. `made` is bound to `cache`, which stays as it is."""
    small, exact = small_model(config), torch.float32
    if not difference(made, small.config, weights_of(small), exact, exact) <= SMALL:
        return "the compiled decode step computes other scores than torch, on a small model of random weights"
    found = difference(made, config, weights, dtype, cache.dtype)
    made_for = EXACT if dtype == cache.dtype == exact else ROUGH
    if found != found:
        return "the model's scores are not finite numbers"
    return None if found <= made_for else f"the compiled decode step computes other scores than torch, by {found:.0%}"


def small_model(config: ModelConfig) -> Transformer:
    """Return a model with the same functions between its products, in which every weight matters."""
    heads = config.n_heads // config.n_kv_heads
    sizes = {"vocab_size": 64, "context_length": min(config.context_length, 1 + max(POSITIONS)), "n_layers": 1}
    sizes |= {"emb_dim": 96, "hidden_dim": 80, "n_heads": heads, "n_kv_heads": 1, "head_dim": config.head_dim}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Transformer(dataclasses.replace(config, **sizes)).eval()
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def difference(
    made: Compiled, config: ModelConfig, weights: Weights, dtype: torch.dtype, cache_dtype: torch.dtype
) -> float:
    """Return how far the scores of compiled code are from those of step.py: of the worst sequence, over its spread."""
    ...
