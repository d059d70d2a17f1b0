"""The learning rate as a pure function of the step: a linear warm-up, then one of `SCHEDULES`."""

from __future__ import annotations

import math
from collections.abc import Callable

from kiara_cli.config.schema import TrainConfig


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Return the rate for update number `step` (1 … total): a linear warm-up, then what train.schedule names.

    Whatever falls, falls from `lr` to `lr × min_lr_ratio` at the last update. A warm-up longer than a tenth of the
    run is cut to that.
    """
    warmup = min(config.warmup_steps, total // 10)
    if step <= warmup:
        return config.highest_lr * step / warmup
    share = SCHEDULES[config.schedule]((step - warmup) / max(1, total - warmup), config)
    return config.highest_lr * (share + (1 - share) * config.min_lr_ratio)


def constant(done: float, config: TrainConfig) -> float:
    """Stay."""
    return 1.0


def linear(done: float, config: TrainConfig) -> float:
    """Fall evenly."""
    return 1.0 - done


def cosine(done: float, config: TrainConfig) -> float:
    """Fall slowly, fast, slowly (Loshchilov and Hutter, 2017)."""
    return 0.5 * (1 + math.cos(math.pi * done))


def warmup_stable_decay(done: float, config: TrainConfig) -> float:
    """Stay, then fall evenly over the last `decay_share` (Hu et al., 2024)."""
    return min(1.0, (1.0 - done) / config.decay_share) if config.decay_share else 1.0


# From the share of the run after the warm-up that is done, 0 to 1, to the share of the way from floor to top.
SCHEDULES: dict[str, Callable[[float, TrainConfig], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "wsd": warmup_stable_decay,
}
