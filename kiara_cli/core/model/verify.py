"""Whether code of Kiara's computes what the modules do: a small model that shows it, and a comparison of gradients.

In: a config, or two models of the same weights. Out: a model with the same functions between its products; what is
wrong, in one line, or None.

B batch, T positions, D width.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.model.attention import segment_mask
from kiara_cli.core.model.transformer import Transformer

POSITIONS = 71  # more than two blocks of 32, and no multiple
FACTOR, REST = 1.0, 0.01  # of the error of plain bf16, of the norm: their sum is 1.4 to 2.5 times what is found


def small_model(config: ModelConfig) -> Transformer:
    """Return a small model of random weights, all of which matter, with the head width of `config`."""
    small = dataclasses.replace(
        config,
        vocab_size=64,
        context_length=min(config.context_length, POSITIONS),
        n_layers=1,
        emb_dim=80,
        hidden_dim=96,
        n_heads=config.n_heads // config.n_kv_heads,
        n_kv_heads=1,
        head_dim=config.head_dim,
        drop_rate=0.0,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = Transformer(small)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def disagreement(plain: Transformer, fused: Transformer) -> str | None:
    """Compare a block in bf16 on a CPU, forward and backward, with and without segments.

    What is fused must be about as near to the result in fp32 as the plain block in bf16 is.
    """
    for segmented in (False, True):
        exact, usual, found = (
            block_gradients(model, bf16, segmented) for model, bf16 in ((plain, False), (plain, True), (fused, True))
        )
        for name, right in exact.items():
            error, norm = (found[name] - right).norm(), right.norm()
            if not error <= FACTOR * (usual[name] - right).norm() + REST * norm:
                return f"the C loops compute another {name} than torch, by {float(error / norm):.1g}"
    return None


def block_gradients(model: Transformer, bf16: bool, segmented: bool) -> dict[str, Tensor]:
    """Return a block's output and the gradients of its input and weights, by name, for random numbers (B, T, D)."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    x, weights = torch.randn(2, 2, config.context_length, config.emb_dim, generator=generator)
    segments = torch.arange(config.context_length).div(30, rounding_mode="floor").expand(2, -1)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        dtype = torch.bfloat16 if bf16 else torch.float32
        x = x.to(dtype).requires_grad_()
        rotary = model.rotary(torch.arange(config.context_length)).to(dtype) if model.rotary is not None else None
        visible = segment_mask(segments, dtype) if segmented else None
        out = model.norm(model.blocks[0](x, rotary, None, visible))
    (out.float() * weights).sum().backward()
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    found = {"output": out.detach(), "gradient of the input": x.grad} | gradients
    return {name: tensor.float() for name, tensor in found.items() if tensor is not None}
