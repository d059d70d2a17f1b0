"""Logits and targets to one number."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kiara_cli.core.data.batches import IGNORE


def cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy in nats, computed in float32. logits (B, T, V), targets (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE, reduction=reduction)
