"""The weights before the first step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.model.attention import Attention
from kiara_cli.core.model.positions import rotary_frequencies

STD = 0.02  # Radford et al., 2019
HEAD_STD = 0.015  # of a head of its own: scores start almost equal (0.005 and 0.05 learned a little slower)
COPY = 2.0  # times the usual size: 1 learned slower, 4 no faster
COMMON = 0.5  # of the direction that all embeddings share, beside their own std of 1 (0.25 was as good)
LOUD, QUIET = 1.5, 0.3  # size of a fixed query or key, and what remains of the random one (guesses)
FAST_PAIRS = 5  # of 16 with heads of 32: they turn by 1 to 0.1 radians a token (a guess)
DRAWS = {nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_}  # what linear layers and embeddings call
GAIN = 3.0  # of normalised queries: heads as narrow as 32 could not attend to one of 250 positions otherwise


class NoDraws(TorchFunctionMode):
    """Within this block the layers of torch keep what their memory holds where they would draw random weights."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return None if function in DRAWS else function(*args, **(kwargs or {}))


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig) -> None:
    """Draw all weights from torch's global generator.

    | weights                                   | drawn from                                             |
    |-------------------------------------------|--------------------------------------------------------|
    | token and position embeddings             | normal, std 0.02 (GPT-2)                               |
    |   … where the head is a matrix of its own | normal, std 1 (nanochat)                               |
    | head, where it is such a matrix           | 0.015 × token embeddings                               |
    | matrices that read the residual stream    | normal, std 1/sqrt(fan-in) / 2, at least 0.02 (guess)  |
    | matrices that write it (out, down)        | the same / sqrt(2 × layers) (GPT-2)                    |
    | biases                                    | 0                                                      |
    | norms; of queries                         | 1; 3                                                   |

    A model with a head of its own then gets what it needs to repeat a word that it has read: `copy_what_is_read`
    doubles `out` from the second block on, `look_back` changes embeddings and heads of the first.
    """
    apart = not config.tied_head
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0 if apart else STD)
        elif isinstance(module, nn.Linear) and name.endswith("head"):
            if apart:
                module.weight.copy_(HEAD_STD * model.get_parameter("tokens.weight"))
        elif isinstance(module, nn.Linear):
            std = max(STD, 0.5 / math.sqrt(module.in_features))
            writes = name.endswith((".out", ".down"))
            nn.init.normal_(module.weight, std=std / math.sqrt(2 * config.n_layers) if writes else std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif name.endswith(".q_norm") and not isinstance(module, nn.Identity):
            nn.init.constant_(module.weight, GAIN)

    if apart:
        blocks = [module for module in model.modules() if isinstance(module, Attention)]
        for attention in blocks[1:]:
            copy_what_is_read(attention)
        if config.positions == "rotary" and config.rotary_dim == config.head_dim:
            look_back(model.get_parameter("tokens.weight"), blocks[0], config)


def copy_what_is_read(attention: Attention) -> None:
    """Let each head write what it reads: `out` becomes the transpose of the values' rows, twice its usual size.

    Embeddings and head being alike, a head that attends to a word then makes that word likelier from the start
    (after Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers", 2023).
    """
    H, K, C = attention.H, attention.K, attention.C
    values = attention.qkv.weight[(H + K) * C :].view(K, C, -1).repeat_interleave(H // K, dim=0)  # (H, C, D)
    scale = COPY * attention.out.weight.std() / values.std()
    attention.out.weight.copy_(scale * values.flatten(0, 1).T)


def look_back(embeddings: Tensor, attention: Attention, config: ModelConfig) -> None:
    """Let up to three heads of the first block look one, two and three tokens back; at least one head stays free.

    To find a word again, a model must know what came before it; here it need not learn to look there. All embeddings
    (V, D) get a direction in common, from which such a head makes the same query and the same key at every position.
    The key is turned so that the two agree where they stand that far apart, and the head passes on a random view of
    the token it sees.
    """
    common = torch.randint(0, 2, (config.emb_dim,)) * 2.0 - 1.0  # (D,)
    embeddings.add_(COMMON * common)
    common /= common.norm()
    H, K, C = attention.H, attention.K, attention.C
    weights = attention.qkv.weight
    weights -= torch.outer(weights @ common, common)  # nothing else answers to it
    q, k, v = torch.split(weights, [H * C, K * C, K * C])
    frequencies, _ = rotary_frequencies(config)
    near = (torch.arange(C // 2) < FAST_PAIRS).float()  # only the pairs that turn fast tell neighbours apart
    for group in range(min(3, K - 1)):
        query, key = (slice(head * C, (head + 1) * C) for head in (group * H // K, group))
        angles = torch.rand(C // 2) * 2 * math.pi
        turned = angles + (group + 1) * frequencies
        for rows, at in ((q[query], angles), (k[key], turned)):
            wave = torch.cat([near * at.cos(), near * at.sin()])  # channel i is paired with channel i + C/2
            rows.mul_(QUIET).add_(LOUD * torch.outer(wave / wave.norm(), common))
        nn.init.orthogonal_(v[key])
        v[key] -= torch.outer(v[key] @ common, common)
        nn.init.orthogonal_(attention.out.weight[:, query])
