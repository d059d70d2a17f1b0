"""Choose the next token.

In: rows of logits (B, V) in float32, and the settings. Out: one id per row.
Each filter returns new logits in which what it drops is -inf, never to be drawn; the best id always stays.

B batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.runtime.device import exact

NEVER = float("-inf")
TINY = torch.finfo(torch.float32).tiny


def sample(logits: Tensor, config: GenerateConfig, chances: Tensor) -> Tensor:
    """Return one id per row, (B,). Temperature 0 is greedy: the filters would keep the best id anyway.

    `chances` (B,) in [0, 1) are all the randomness there is, one number for each row: a row's id depends on
    its own logits and number, whatever the company.
    """
    if config.temperature == 0:
        return logits.argmax(dim=-1)
    logits = apply_temperature(logits, config.temperature)
    if config.top_k is not None:
        logits = keep_top_k(logits, config.top_k)
    if config.top_p < 1:
        logits = keep_top_p(logits, config.top_p)
    if config.min_p > 0:
        logits = keep_min_p(logits, config.min_p)
    return draw(logits, chances)


def chance(generator: torch.Generator) -> Tensor:
    """Return one random number in [0, 1), (1,) in float64 on the CPU."""
    return torch.rand(1, generator=generator, dtype=torch.float64)


def penalize_counts(logits: Tensor, counts: Tensor, frequency: float, presence: float) -> Tensor:
    """Lower ids by how often they were sampled, and by whether they were; counts (B, V). OpenAI's two penalties."""
    return logits - frequency * counts - presence * (counts > 0)


def ngram_ends(ids: Sequence[int], n: int) -> list[int]:
    """Return the ids that would complete an n-gram which `ids` already hold."""
    if len(ids) < n:
        return []
    last = tuple(ids[len(ids) - n + 1 :])
    return [ids[i + n - 1] for i in range(len(ids) - n + 1) if tuple(ids[i : i + n - 1]) == last]


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make ids in the mask `seen` (B, V) less likely: divide positive logits, multiply negative ones.

    CTRL (Keskar et al., 2019), with the correction for negative logits that everyone uses.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide by a temperature above 0; the best logit becomes 0, so that no small temperature overflows."""
    return (logits - logits.amax(dim=-1, keepdim=True)) / max(temperature, TINY)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k best ids, and any that tie with the last of them."""
    worst = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < worst, NEVER)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest best ids whose probabilities add up to p (nucleus: Holtzman et al., 2020)."""
    ranked, ids = logits.sort(dim=-1, descending=True, stable=True)
    probs = ranked.softmax(dim=-1)
    drop = probs.cumsum(dim=-1) - probs >= p  # (B, V): the better ones are enough without this one
    drop[:, 0] = False
    return logits.masked_fill(drop.scatter(-1, ids, drop), NEVER)  # from rank order back to id order


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Keep ids at least min_p times as probable as the best one (Nguyen et al., 2024)."""
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs < min_p * probs.amax(dim=-1, keepdim=True), NEVER)


def draw(logits: Tensor, chances: Tensor) -> Tensor:
    """Draw one id per row, (B,), from softmax(logits): the id in whose share of [0, 1) the row's chance falls."""
    edges = exact(logits).softmax(dim=-1).cumsum(dim=-1)  # (B, V): where each id's share ends
    last = edges[:, -1:].nextafter(edges.new_zeros(()))  # just below it: rounding must not leave the line
    ids = torch.searchsorted(edges, chances.to(edges)[:, None] * last, right=True)[:, 0]
    return ids.to(logits.device)
