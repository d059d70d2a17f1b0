"""Rows for ids that a model has not scored so far, such as special tokens that its tokenizer got later.

In: a checkpoint and a number of ids. Out: a checkpoint whose embedding and head have a row for each.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from kiara_cli.core.checkpoint.files import Checkpoint

TABLES = ("tokens.weight", "head.weight")  # what has a row for each id


def with_rows(checkpoint: Checkpoint, rows: int) -> Checkpoint:
    """Return a checkpoint with at least `rows` rows; new ones are the mean of all others."""
    model: dict[str, Any] = {**checkpoint.config["model"]}
    missing = rows - model["vocab_size"]
    if missing <= 0:
        return checkpoint
    weights = dict(checkpoint.model)
    for name in TABLES:
        if name in weights:
            mean = weights[name].mean(dim=0, keepdim=True)
            weights[name] = torch.cat([weights[name], mean.expand(missing, -1)]).contiguous()
    config = {**checkpoint.config, "model": model | {"vocab_size": rows}}
    return dataclasses.replace(checkpoint, model=weights, config=config)
