"""A text as one vector: the mean of the states that the head would see.

In: ids. Out: a vector of length 1, so that the product of two says how alike two texts are to the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from kiara_cli.core.generate.engine import Engine
from kiara_cli.errors import KiaraError


@torch.inference_mode()
def embed(engine: Engine, ids: Sequence[int]) -> list[float]:
    """Return the vector of at most `context` ids, at least one: (D,) floats. Raises KiaraError if they are none."""
    assert 0 < len(ids) <= engine.context
    with engine.runtime.precision() if engine.model is engine.original else contextlib.nullcontext():
        states = engine.model.states(torch.tensor([list(ids)], device=engine.device))[0]  # (T, D)
    mean = F.normalize(states.float().mean(dim=0), dim=0)
    if not bool(mean.isfinite().all()):
        raise KiaraError(
            "the model's states are not finite numbers", "its training has diverged: use an earlier checkpoint"
        )
    vector: list[float] = mean.tolist()
    return vector
