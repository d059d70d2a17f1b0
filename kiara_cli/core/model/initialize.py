"""The weights before the first step."""

from __future__ import annotations

import math

import torch
from torch import nn

from kiara_cli.config.schema import ModelConfig

STD = 0.02  # Radford et al., 2019
HEAD_STD = 0.005  # of a head of its own: scores start almost equal (a guess)
GAIN = 3.0  # of normalised queries: heads as narrow as 32 could not attend to one of 250 positions otherwise


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig) -> None:
    """Draw all weights from torch's global generator.

    | weights                                   | drawn from                                             |
    |-------------------------------------------|--------------------------------------------------------|
    | token and position embeddings             | normal, std 0.02 (GPT-2)                               |
    |   … where the head is a matrix of its own | normal, std 1 (nanochat)                               |
    | head                                      | normal, std 0.005                                      |
    | matrices that read the residual stream    | normal, std 1/sqrt(fan-in) / 2, at least 0.02 (guess)  |
    | matrices that write it (out, down)        | the same / sqrt(2 × layers) (GPT-2)                    |
    | biases                                    | 0                                                      |
    | norms; of queries                         | 1; 3                                                   |
    """
    apart = not config.tied_head
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0 if apart else STD)
        elif isinstance(module, nn.Linear) and name.endswith("head"):
            nn.init.normal_(module.weight, std=HEAD_STD if apart else STD)
        elif isinstance(module, nn.Linear):
            std = max(STD, 0.5 / math.sqrt(module.in_features))
            writes = name.endswith((".out", ".down"))
            nn.init.normal_(module.weight, std=std / math.sqrt(2 * config.n_layers) if writes else std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif name.endswith(".q_norm") and not isinstance(module, nn.Identity):
            nn.init.constant_(module.weight, GAIN)
