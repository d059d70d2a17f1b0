"""Less memory for more time: blocks keep their inputs alone and compute the rest again in the backward pass.

In: a model. Out: the same model, with the same gradients.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kiara_cli.core.model.points import OWN, second_pass
from kiara_cli.core.model.transformer import Transformer


def recompute_blocks(model: Transformer) -> Transformer:
    """Keep only what goes into each block for the backward pass; dropout is drawn the same again."""
    for block in model.blocks:
        block.forward = functools.partial(_forward, block, block.forward)
    return model


def _forward(block: Any, forward: Callable[..., Tensor], *inputs: Any) -> Tensor:
    if not block.training:
        return forward(*inputs)
    out: Tensor = checkpoint(forward, *inputs, use_reentrant=False, context_fn=_contexts)
    return out


def _contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    return contextlib.nullcontext(), second_pass()


OWN.add(_forward)
