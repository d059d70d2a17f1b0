"""The weights before the first step."""

from __future__ import annotations

import math

import torch
from torch import nn

STD = 0.02  # Radford et al., 2019


@torch.no_grad()
def initialize(model: nn.Module) -> None:
    """Draw all weights from torch's global generator.

    | weights                                   | drawn from                                             |
    |-------------------------------------------|--------------------------------------------------------|
    | token and position embeddings, head       | normal, std 0.02 (GPT-2)                               |
    | matrices that read the residual stream    | normal, std 1/sqrt(fan-in) / 2, at least 0.02 (guess)  |
    | matrices that write it (out, down)        | the same / sqrt(2 × layers) (GPT-2)                    |
    | biases                                    | 0                                                      |
    | norms                                     | 1                                                      |
    """
    layers = len(getattr(model, "blocks", ())) or 1
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) or (isinstance(module, nn.Linear) and name.endswith("head")):
            nn.init.normal_(module.weight, std=STD)
        elif isinstance(module, nn.Linear):
            std = max(STD, 0.5 / math.sqrt(module.in_features))
            writes = name.endswith((".out", ".down"))
            nn.init.normal_(module.weight, std=std / math.sqrt(2 * layers) if writes else std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
