"""Where a training stands. With weights and optimizer, all that an exact resume needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor


@dataclass
class Progress:
    """The counters and the random state; plain values and tensors alone, as a checkpoint stores them."""

    step: int = 0  # updates made
    position: int = 0  # batches drawn: more than steps × accumulation where some were skipped
    tokens: int = 0
    seconds: float = 0.0
    best_val_loss: float | None = None
    best_step: int = 0
    without_best: int = 0  # evaluations since the best one
    skipped: int = 0  # updates not made because something was not finite
    skipped_in_a_row: int = 0
    losses: list[float] = field(default_factory=list)  # since the last record
    usual_loss: float | None = None  # running means of the logged loss and of its change
    usual_change: float = 0.0
    loss_scale: float = 1.0  # of fp16
    scaled_at: int = 0  # the step at which it changed last
    random: dict[str, Tensor] = field(default_factory=dict)  # torch's generators, by device
    average: dict[str, Tensor] = field(default_factory=dict)  # of the weights, where one is kept
    hooks: dict[str, Any] = field(default_factory=dict)  # of hooks that have a state

    @classmethod
    def from_state(cls, state: Mapping[str, Any], accumulation: int) -> Progress:
        """Read what a checkpoint stored; one from before positions were counted has skipped nothing."""
        known = {item.name for item in fields(cls)}
        return cls(**{"position": state["step"] * accumulation} | {k: v for k, v in state.items() if k in known})


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's generators that training draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Undo `random_state`."""
    setters = {"cpu": torch.set_rng_state, "cuda": torch.cuda.set_rng_state, "mps": torch.mps.set_rng_state}
    for device, value in state.items():
        setters[device](value)
