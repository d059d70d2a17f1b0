"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from kiara_cli.config.schema import TrainConfig


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Return the rate for update number `step` (1 … total): a linear warm-up, then a cosine (Loshchilov, 2017).

    The cosine falls from `lr` to `lr × min_lr_ratio` at the last update. A warm-up longer than a tenth of the run
    is cut to that.
    """
    warmup = min(config.warmup_steps, total // 10)
    if step <= warmup:
        return config.lr * step / warmup
    done = (step - warmup) / max(1, total - warmup)
    floor = config.lr * config.min_lr_ratio
    return floor + (config.lr - floor) * 0.5 * (1 + math.cos(math.pi * done))
