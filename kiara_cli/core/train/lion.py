"""Lion: every weight moves by the sign of a momentum (Chen et al., 2023). One state tensor a weight, not two."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class Lion(torch.optim.Optimizer):
    """Step by the sign of a fast blend of momentum and gradient; remember a slow one. Decay is decoupled."""

    def __init__(self, params: Iterable[Any], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            weights = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not weights:
                continue
            gradients = [parameter.grad for parameter in weights]
            for parameter in weights:
                if not self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            momenta = [self.state[parameter]["momentum"] for parameter in weights]
            fast, slow = group["betas"]
            moves = torch._foreach_lerp(momenta, gradients, 1 - fast)
            torch._foreach_sign_(moves)
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, moves, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - slow)
