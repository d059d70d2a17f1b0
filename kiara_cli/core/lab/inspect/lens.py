"""What the model would say if it stopped after a layer, and how sure it is of each token.

In: a trace. Out: `Lens`: the tokens that the head makes of the stream after each layer, read through the final norm
(logit lens, nostalgebraist, 2020), with rank and probability of the token that really follows; `Surprisal` of each
token; norms of the stream.

L layers, T positions, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kiara_cli.core.lab.inspect.trace import Trace
from kiara_cli.core.model.transformer import Transformer


@dataclass(frozen=True)
class Guess:
    """What the head makes of a stream: the likeliest tokens with their probabilities, and the token that follows."""

    top: list[tuple[int, float]]
    rank: int | None  # of the token that follows, 1 the likeliest; None where nothing follows
    probability: float | None


@dataclass(frozen=True)
class Lens:
    """Guesses by depth and position: before the first block, then after each; the last ones are the model's own."""

    depths: list[str]
    guesses: list[list[Guess]]


@dataclass(frozen=True)
class Surprisal:
    """How unlikely a token was: -log p, given those before it; and the rank of it."""

    position: int
    token: int
    nats: float
    rank: int
    top: list[tuple[int, float]]

    @property
    def bits(self) -> float:
        return self.nats / math.log(2)


@torch.no_grad()
def lens(model: Transformer, trace: Trace, top: int = 5) -> Lens:
    """Read the stream after each layer through the final norm and the head."""
    layers = model.config.n_layers
    streams = {"embedding": trace.at(0, "resid_pre")}
    streams |= {f"layer {layer}": trace.at(layer, "resid_post") for layer in range(layers)}
    following = trace.ids[1:]
    rows = [guesses(model.head(model.norm(stream)), following, top) for stream in streams.values()]
    rows[-1] = guesses(trace.logits, following, top)  # with what hooks make of them
    return Lens(list(streams), rows)


def guesses(logits: Tensor, following: Sequence[int], top: int) -> list[Guess]:
    """Turn logits (T, V) into guesses; `following` are the tokens that really came."""
    shares = logits.float().softmax(dim=-1)
    best = shares.topk(min(top, shares.shape[-1]), dim=-1)
    out = []
    for place, (ids, values) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True)):
        pairs = list(zip(ids, values, strict=True))
        if place >= len(following):
            out.append(Guess(pairs, None, None))
            continue
        own = logits[place, following[place]]
        rank = 1 + int((logits[place] > own).sum())
        out.append(Guess(pairs, rank, float(shares[place, following[place]])))
    return out


def surprisals(trace: Trace, top: int = 5) -> list[Surprisal]:
    """Return the surprisal of every token but the first, which nothing stands before."""
    logprobs = trace.logits.float().log_softmax(dim=-1)
    found = guesses(trace.logits, trace.ids[1:], top)
    out = []
    for place, token in enumerate(trace.ids[1:], 1):
        guess = found[place - 1]
        assert guess.rank is not None
        out.append(Surprisal(place, token, -float(logprobs[place - 1, token]), guess.rank, guess.top))
    return out


def norms(model: Transformer, trace: Trace) -> dict[str, list[float]]:
    """Return the length of the stream, and of what attention and feedforward add to it, (T,) by point."""
    names = ("resid_pre", "attention.out", "resid_mid", "feedforward.out", "resid_post")
    return {
        f"blocks.{layer}.{name}": trace.at(layer, name).norm(dim=-1).tolist()
        for layer in range(model.config.n_layers)
        for name in names
    }
