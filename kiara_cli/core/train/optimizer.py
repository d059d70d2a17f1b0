"""Gradients to updates: one optimizer for everything, or Muon for the matrices inside blocks and AdamW for the rest.

In: a model and the train section. Out: an optimizer; weight decay falls on matrices and embeddings alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from kiara_cli.config.schema import TrainConfig
from kiara_cli.core.model.transformer import Transformer, at_speed
from kiara_cli.core.train.lion import Lion
from kiara_cli.core.train.spread import is_shared_out, share_like, whole

MUON_MOMENTUM = 0.95  # Jordan et al., 2024
MUON_RMS = 0.2  # root mean square of an update per unit of learning rate: AdamW's usual one (Liu et al., 2025)
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al., 2024: fast, to singular values of about 0.7 to 1.2
ROUNDS = 5


def make_optimizer(model: Transformer, config: TrainConfig) -> torch.optim.Optimizer:
    """Make the optimizer that train.optimizer names, of the weights that are trained.

    Of adapters AdamW in the place of Muon: their second factor begins at 0, so the first factor's gradient does too
    and stays small at first; Muon would make a full step of whatever noise it is.
    """
    adapts = config.lora.rank > 0 and config.optimizer == "muon"
    return OPTIMIZERS["adamw" if adapts else config.optimizer](model, config)


def make_adamw(model: Transformer, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) over all weights."""
    return _adamw(model.parameters(), config)


def make_muon(model: Transformer, config: TrainConfig) -> torch.optim.Optimizer:
    """Muon over the matrices inside blocks, AdamW over embeddings, head, norms and biases."""
    matrices = [parameter for parameter in model.blocks.parameters() if parameter.ndim == 2]
    taken = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    return Both(Muon(matrices, lr=config.lr, weight_decay=config.weight_decay), _adamw(others, config))


def make_lion(model: Transformer, config: TrainConfig) -> torch.optim.Optimizer:
    """Lion over all weights."""
    return Lion(decay_groups(model.parameters(), config), config.highest_lr, (config.beta1, config.beta2))


def make_sgd(model: Transformer, config: TrainConfig) -> torch.optim.Optimizer:
    """Stochastic gradient descent with Nesterov's momentum over all weights."""
    groups, fused = decay_groups(model.parameters(), config), not is_shared_out(model)
    return torch.optim.SGD(
        groups, lr=config.highest_lr, momentum=config.beta1, nesterov=config.beta1 > 0, fused=fused
    )


OPTIMIZERS: dict[str, Callable[[Transformer, TrainConfig], torch.optim.Optimizer]] = {
    "adamw": make_adamw,
    "lion": make_lion,
    "muon": make_muon,
    "sgd": make_sgd,
}


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, so that every direction of a matrix moves alike.

    Matrices of one shape go through Newton–Schulz together, as batched products, in the precision of `autocast`.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for (rows, columns), parameters in shapes.items():
                wholes = [
                    whole(matrix) for matrix in self._momentum(parameters)
                ]  # a share has other singular vectors
                updates = orthogonalize(torch.stack(wholes)).to(parameters[0].dtype).unbind()
                scale = MUON_RMS * max(rows, columns) ** 0.5  # an orthogonal matrix has RMS 1/sqrt(longer side)
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, share_like(parameters, updates), alpha=-group["lr"] * scale)

    def _momentum(self, parameters: list[Tensor]) -> tuple[Tensor, ...]:
        """Blend gradients into their running means and return Nesterov's looks ahead, (rows, columns) each."""
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        means = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(means, gradients, 1 - MUON_MOMENTUM)
        return torch._foreach_lerp(gradients, means, MUON_MOMENTUM)


class Both(torch.optim.Optimizer):
    """Two optimizers, each over its own weights, as one."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        self.parts = (first, second)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self.param_groups = [group for part in self.parts for group in part.param_groups]  # shared, not copied

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return near-orthogonal matrices with the same singular vectors, (n, rows, columns)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if tall else matrices
    x = at_speed(x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7))
    a, b, c = NEWTON_SCHULZ
    for _ in range(ROUNDS):
        gram = x @ x.mT
        weights = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, weights, x, beta=a)  # a x + (b g + c g²) x
    out: Tensor = x.mT if tall else x
    return out


def decay_groups(parameters: Iterable[Tensor], config: TrainConfig) -> list[dict[str, Any]]:
    """Part weights into those that weight decay shrinks, matrices and embeddings, and those it leaves alone."""
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _adamw(parameters: Iterable[Tensor], config: TrainConfig) -> torch.optim.AdamW:
    groups = decay_groups(parameters, config)
    return torch.optim.AdamW(groups, lr=config.highest_lr, betas=(config.beta1, config.beta2), fused=True)
