"""Where each head looks, and which heads copy a word.

In: a trace. Out: `Head`s: pattern and scores of each; `Copying`: how a head looks back at a token that is said again,
and what it adds to that token's logit by itself.

L layers, H heads, T positions. Scores are means over the queries that have such a key:
previous: attention to the token before; first: to the first token, from the third on; self: to the query's own;
repeat: to earlier occurrences of the query's token; induction: to what followed them (Olsson et al., 2022);
entropy: of the pattern's rows in bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kiara_cli.core.lab.inspect.attribution import Parts
from kiara_cli.core.lab.inspect.trace import Trace
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError

SCORES = ("previous", "first", "self", "repeat", "induction", "entropy")


@dataclass(frozen=True)
class Head:
    """A head: its pattern (T, T), queries by keys, and its scores; one that no query has is None."""

    layer: int
    head: int
    pattern: Tensor
    scores: dict[str, float | None]

    @property
    def name(self) -> str:
        return f"{self.layer}.{self.head}"


@dataclass(frozen=True)
class Copying:
    """A head at the position that predicts a token: attention to earlier occurrences of it, and its direct effect.

    `logit` is what the head adds to the token's logit, `from_source` the part of it that comes from those positions.
    """

    layer: int
    head: int
    attention: float
    logit: float
    from_source: float

    @property
    def name(self) -> str:
        return f"{self.layer}.{self.head}"


def heads(model: Transformer, trace: Trace) -> list[Head]:
    """Return every head with its pattern and scores, by layer."""
    masks = keys_by_score(trace.ids)
    out = []
    for layer in range(model.config.n_layers):
        for number, pattern in enumerate(trace.at(layer, "attention.pattern")):
            scores: dict[str, float | None] = {name: share(pattern, mask) for name, mask in masks.items()}
            entropy = -(pattern * pattern.clamp(min=1e-30).log2()).sum(dim=-1)
            out.append(Head(layer, number, pattern, scores | {"entropy": float(entropy.mean())}))
    return out


def keys_by_score(ids: Sequence[int]) -> dict[str, Tensor]:
    """Return for each score which keys count for each query, (T, T) bool."""
    T = len(ids)
    at = torch.arange(T)
    same = torch.tensor(list(ids))[:, None] == torch.tensor(list(ids))[None, :]
    earlier = at[None, :] < at[:, None]
    repeat = same & earlier
    after = torch.zeros(T, T, dtype=torch.bool)
    after[:, 1:] = repeat[:, :-1]  # the key after an earlier occurrence
    return {
        "previous": at[None, :] == at[:, None] - 1,
        "first": (at[None, :] == 0) & (at[:, None] > 1),
        "self": torch.eye(T, dtype=torch.bool) & (at[:, None] > 0),
        "repeat": repeat,
        "induction": after & (at[None, :] <= at[:, None]),
    }


def share(pattern: Tensor, mask: Tensor) -> float | None:
    """Return how much of its attention a query gives to the keys that are marked, as a mean over those with any."""
    queries = mask.any(dim=1)
    if not bool(queries.any()):
        return None
    return float((pattern * mask.to(pattern.device)).sum(dim=1)[queries].mean())


def copying(trace: Trace, parts: Parts, position: int) -> list[Copying]:
    """Return for each head how it copies the token at `position`, the one with the largest effect first.

    `parts` are those of the logit of that token, one position before. Raises KiaraError for a token said only once.
    """
    token = trace.ids[position]
    earlier = [place for place in range(position) if trace.ids[place] == token]
    if not earlier:
        raise KiaraError(
            "the word does not occur before the answer says it: there is nothing to copy",
            "name another by --word, one that the prompt holds too",
        )
    out = []
    for layer in range(len(parts.heads)):
        pattern = trace.at(layer, "attention.pattern")[:, position - 1]  # (H, T)
        for head in range(len(pattern)):
            out.append(
                Copying(
                    layer,
                    head,
                    float(pattern[head, earlier].sum()),
                    float(parts.heads[layer, head]),
                    float(parts.sources[layer, head, earlier].sum()),
                )
            )
    return sorted(out, key=lambda one: -one.from_source)
