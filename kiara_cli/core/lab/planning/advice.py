"""What follows from an estimate: how much data a model of this size is worth, the largest batch, what would fit.

In: an `Estimate`. Out: sentences and numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from kiara_cli.core.lab.planning.estimate import Estimate

TOKENS_PER_PARAMETER = 20  # compute-optimal: Hoffmann et al., 2022, "Training Compute-Optimal LLMs" (Chinchilla)
GOOD_EPOCHS = 4  # repeating data so often is nearly as good as new data (Muennighoff et al., 2023)
CHUNK = 512  # positions that are scored at a time where that helps


def compute_optimal(estimate: Estimate) -> tuple[int, int]:
    """Return the parameters and tokens that are best for this training's operations, C = 6 N D with D = 20 N."""
    operations = 6 * estimate.count.parameters * estimate.tokens
    parameters = math.sqrt(operations / (6 * TOKENS_PER_PARAMETER))
    return round(parameters), round(TOKENS_PER_PARAMETER * parameters)


def largest_batch(estimate: Estimate) -> int | None:
    """Return the most rows of a forward pass that fit; None: rows go through in pieces, so that memory stays alike,
    or nobody knows how much memory there is."""
    available = estimate.target.available
    if available is None or estimate.target.kind == "cpu":
        return None
    one, two = (changed(estimate, "train.batch_size", rows).peak for rows in (1, 2))
    if one > available:
        return 0
    return 1 + int((available - one) / max(1, two - one))


def changed(estimate: Estimate, key: str, value: Any) -> Estimate:
    """Return the estimate of the same training with one setting changed."""
    section, name = key.split(".")
    part = dataclasses.replace(getattr(estimate.config, section), **{name: value})
    config = dataclasses.replace(estimate.config, **{section: part})
    target = estimate.target
    if key == "runtime.dtype":
        target = dataclasses.replace(target, dtype=value)
    if key == "train.batch_size":  # the batch stays whole
        train = dataclasses.replace(
            config.train,
            accumulation=1
            if value >= estimate.config.train.batch_size
            else estimate.config.train.accumulation * estimate.config.train.batch_size // value,
        )
        config = dataclasses.replace(config, train=train)
    return Estimate(config, estimate.facts, target)


def remedies(estimate: Estimate) -> Iterator[tuple[str, int, bool]]:
    """Yield changes that lower the memory: what to type, the bytes then, and whether it fits then."""
    train, context = estimate.config.train, estimate.config.model.context_length
    tries: list[tuple[str, Any]] = []
    if train.batch_size > 1:
        tries += [("train.batch_size", max(1, train.batch_size // 2)), ("train.batch_size", 1)]
    if not train.recompute:
        tries.append(("train.recompute", True))
    if train.loss_chunk is None and train.batch_size * context > CHUNK:
        tries.append(("train.loss_chunk", CHUNK))
    if estimate.target.dtype == "fp32":
        tries.append(("runtime.dtype", "bf16"))
    if estimate.config.eval.batch_size > 1:
        tries.append(("eval.batch_size", 1))
    both = estimate
    for key, value in tries:
        other = changed(estimate, key, value)
        both = changed(both, key, value)
        if other.peak < estimate.peak:
            yield said(key, value), other.peak, other.missing == 0
    if both.peak < estimate.peak:
        yield "all of these together", both.peak, both.missing == 0


def said(key: str, value: Any) -> str:
    text = f"{key}={str(value).lower() if isinstance(value, bool) else value}"
    return f"{text} with the accumulation that keeps the batch" if key == "train.batch_size" else text
