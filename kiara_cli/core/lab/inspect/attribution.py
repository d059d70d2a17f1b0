"""What each head and layer adds to a logit by itself.

In: a trace, a position and a token. Out: `Parts`: contributions of the embedding, of every head (and through every
source position), of every feedforward and of the biases, that add up to the logit.

The residual stream at the end is a sum of what was added to it. The final norm divides it by one number, which is
taken as it is (frozen); the head is linear. So every summand has a share of the logit of its own. Indirect effects,
those through later layers, are not in it: see ablation and patching.

L layers, H heads, T positions, D width, C head width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kiara_cli.core.lab.inspect.trace import Trace
from kiara_cli.core.model.attention import Attention
from kiara_cli.core.model.feedforward import RMSNorm1p
from kiara_cli.core.model.transformer import Transformer

ROUNDING = 1e-4  # parts smaller than this are what sums in another order leave


@dataclass(frozen=True)
class Parts:
    """Contributions to a logit: `heads` (L, H), `sources` (L, H, T) the same by the position whose values they are,
    `feedforwards` (L,), `biases` (L,) of the attention's output, and whatever hooks changed there; `embedding`, with
    added positions, and `norm`, the bias of the final norm with what hooks changed in the stream."""

    position: int
    token: int
    logit: float
    embedding: float
    heads: Tensor
    sources: Tensor
    feedforwards: Tensor
    biases: Tensor
    norm: float

    def named(self) -> dict[str, float]:
        """Return every part by its name."""
        out = {"embedding": self.embedding}
        for layer, row in enumerate(self.heads.tolist()):
            out |= {f"head {layer}.{head}": value for head, value in enumerate(row)}
            if abs(self.biases[layer]) > ROUNDING:
                out[f"bias {layer}"] = float(self.biases[layer])
            out[f"feedforward {layer}"] = float(self.feedforwards[layer])
        return out | ({"final norm": self.norm} if abs(self.norm) > ROUNDING else {})

    def __sub__(self, other: Parts) -> Parts:
        """Return the parts of a difference of two logits at one position."""
        assert self.position == other.position
        return Parts(
            self.position, self.token, self.logit - other.logit, self.embedding - other.embedding,
            self.heads - other.heads, self.sources - other.sources, self.feedforwards - other.feedforwards,
            self.biases - other.biases, self.norm - other.norm,
        )  # fmt: skip


@torch.no_grad()
def attribute(model: Transformer, trace: Trace, position: int, token: int) -> Parts:
    """Return what makes the logit of a token after the token at `position`."""
    layers = range(model.config.n_layers)
    stream, row = trace.at(layers[-1], "resid_post")[position], head_rows(model, [token])[0]
    reads = direction(model.norm, stream, row)  # (D,): a summand x of the stream adds x · reads
    start = trace.values["embed.out"][position]
    if "pos_embed.out" in trace.values:
        start = start + trace.values["pos_embed.out"][position]
    sources = torch.stack([_by_source(model, trace, layer, position, reads) for layer in layers])  # (L, H, T)
    added = torch.stack([trace.at(layer, "attention.out")[position] for layer in layers])  # (L, D)
    forwards = torch.stack([trace.at(layer, "feedforward.out")[position] for layer in layers])
    rest = stream - start - added.sum(dim=0) - forwards.sum(dim=0)
    heads = sources.sum(dim=2)
    return Parts(
        position, token, float(trace.logits[position, token]), float(start @ reads), heads, sources,
        forwards @ reads, added @ reads - heads.sum(dim=1), float(rest @ reads + norm_bias(model.norm, row) @ row),
    )  # fmt: skip


def _by_source(model: Transformer, trace: Trace, layer: int, position: int, reads: Tensor) -> Tensor:
    """Return what each head adds to a logit, by the position that its values come from: (H, T)."""
    attention = attention_of(model, layer)
    pattern = trace.at(layer, "attention.pattern")[:, position]  # (H, T)
    values = trace.at(layer, "attention.v").repeat_interleave(attention.H // attention.K, dim=0)  # (H, T, C)
    ways = output_weights(attention) @ reads  # (H, C)
    out = pattern * torch.einsum("htc,hc->ht", values, ways)
    heads = trace.at(layer, "attention.heads")[:, position]  # (H, C), which hooks may have made something else of
    out[:, position] += (heads * ways).sum(dim=1) - out.sum(dim=1)  # else rounding
    return out


def attention_of(model: Transformer, layer: int) -> Attention:
    """Return the attention of a layer."""
    attention: Attention = model.get_submodule(f"blocks.{layer}.attention")  # type: ignore[assignment]
    return attention


def output_weights(attention: Attention) -> Tensor:
    """Return the part of the output projection that each head goes through, (H, C, D).

    What the projection makes of ones, so that it is right for adapters and small weights too.
    """
    out: nn.Module = attention.out
    width = attention.H * attention.C
    ones = torch.eye(width, device=next(iter(out.parameters()), torch.zeros(0)).device)
    weight: Tensor = out(ones) - out(torch.zeros_like(ones[:1]))
    return weight.float().reshape(attention.H, attention.C, -1)


def head_rows(model: Transformer, tokens: list[int]) -> Tensor:
    """Return what scores these tokens, (n, D)."""
    return model.head.weight[tokens].float()


def direction(norm: nn.Module, stream: Tensor, row: Tensor) -> Tensor:
    """Return what a summand of a stream (…, D) is multiplied with to give its share of a row's logit, (…, D).

    The final norm is the linear map that it is once its scale is known: that of this stream.
    """
    centred = stream - stream.mean(dim=-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else stream
    eps: float = norm.eps  # type: ignore[assignment]
    scale = (centred.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    weight = getattr(norm, "weight", None)
    weight = torch.ones_like(row) if weight is None else weight.float() + isinstance(norm, RMSNorm1p)
    reads = row * weight
    return scale * (reads - reads.mean(dim=-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else reads)


def norm_bias(norm: nn.Module, row: Tensor) -> Tensor:
    """Return the bias of a norm, (D,)."""
    bias = getattr(norm, "bias", None)
    return torch.zeros_like(row) if bias is None else bias.float()
