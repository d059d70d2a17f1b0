"""Gradients to updates: AdamW (Loshchilov and Hutter, 2019), with weight decay on matrices alone."""

from __future__ import annotations

import torch

from kiara_cli.config.schema import TrainConfig
from kiara_cli.core.model.transformer import Transformer


def make_optimizer(model: Transformer, config: TrainConfig) -> torch.optim.AdamW:
    """Make AdamW over two groups: matrices and embeddings decay, norms and biases do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)
