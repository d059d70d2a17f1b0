"""Rows for ids that a model has not scored so far, such as special tokens that its tokenizer got later.

In: a checkpoint and a number of ids. Out: a checkpoint whose embedding and head have a row for each.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.errors import KiaraError

TABLES = ("tokens.weight", "head.weight")  # what has a row for each id
NOISE = 0.3  # of a new row, in standard deviations of each channel (a guess)


def with_rows(checkpoint: Checkpoint, rows: int) -> Checkpoint:
    """Return a checkpoint with at least `rows` rows: each new one the mean of all others and a little noise.

    From the mean alone a new token would be scored like a usual one (Hewitt, 2021), but all new ones would be the
    same, and stay so where the table is frozen. The noise of a row depends on nothing but its number.
    """
    model: dict[str, Any] = {**checkpoint.config["model"]}
    had, missing = model["vocab_size"], rows - model["vocab_size"]
    if missing <= 0:
        return checkpoint
    if checkpoint.quantize is not None:
        raise KiaraError(
            f"{checkpoint.path} has no rows for {missing} of its tokenizer's ids, and its rows are quantized",
            "use the checkpoint that it was made from",
        )
    weights = dict(checkpoint.model)
    for name in TABLES:
        if name in weights:
            mean, std = weights[name].float().mean(dim=0), weights[name].float().std(dim=0)
            draws = [torch.randn(len(mean), generator=torch.Generator().manual_seed(row)) for row in range(had, rows)]
            new = mean + NOISE * std * torch.stack(draws)
            weights[name] = torch.cat([weights[name], new.to(weights[name].dtype)]).contiguous()
    config = {**checkpoint.config, "model": model | {"vocab_size": rows}}
    return dataclasses.replace(checkpoint, model=weights, config=config, known_as=checkpoint.identity)
