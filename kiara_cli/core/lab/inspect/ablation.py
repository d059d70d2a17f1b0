"""What becomes worse when a part of the model is taken away.

In: a model and a text as ids, in windows. Out: `Ablated` for each head and each feedforward: the loss without it.
`zero` puts zeros in the place of its output; `mean` its mean over all positions, so that what it adds to every token
alike stays.

L layers, H heads, T positions, N windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kiara_cli.core.lab.inspect.trace import Change, changed
from kiara_cli.core.model.transformer import Transformer

How = Literal["zero", "mean"]
Done = Callable[[int, int], None]  # how many of how many


@dataclass(frozen=True)
class Ablated:
    """A part and the loss without it, in nats a token; `before` is the loss with everything in its place.

    `lead` is how far the logit of the token is above the best other one, as a mean: it tells more than the loss where
    the model is sure of it.
    """

    layer: int
    head: int | None  # None: the feedforward
    loss: float
    before: float
    lead: float = 0.0
    lead_before: float = 0.0

    @property
    def name(self) -> str:
        return f"feedforward {self.layer}" if self.head is None else f"head {self.layer}.{self.head}"

    @property
    def change(self) -> float:
        return self.loss - self.before


@torch.no_grad()
def ablate(model: Transformer, windows: Sequence[Sequence[int]], scored_from: int = 1, how: How = "zero",
           done: Done = lambda count, of: None) -> list[Ablated]:  # fmt: skip
    """Take away each head and each feedforward in turn. The loss is that of the tokens from `scored_from` on in each
    window, one at least."""
    parts = list(parts_of(model))
    before = scores(model, windows, scored_from)
    means = means_of(model, windows) if how == "mean" else {}
    out = []
    for number, (layer, head) in enumerate(parts, 1):
        name = point_of(layer, head)
        with changed(model, {name: without(head, means.get(name))}):
            after = scores(model, windows, scored_from)
        out.append(Ablated(layer, head, after[0], before[0], after[1], before[1]))
        done(number, len(parts))
    return out


def parts_of(model: Transformer) -> Iterator[tuple[int, int | None]]:
    """Yield layer and head of each head, and layer and None of each feedforward, in the order of the layers."""
    for layer in range(model.config.n_layers):
        yield from ((layer, head) for head in range(model.config.n_heads))
        yield layer, None


def point_of(layer: int, head: int | None) -> str:
    """Name the point at which a part's output passes."""
    return f"blocks.{layer}.feedforward.out" if head is None else f"blocks.{layer}.attention.heads"


def without(head: int | None, mean: Tensor | None) -> Change:
    """Return what puts zeros, or means over positions, in the place of a head (B, H, T, C), or of a whole value."""

    def change(value: Tensor) -> Tensor:
        value = value.clone()
        if head is None:
            value[:] = 0 if mean is None else mean
        else:
            value[:, head] = 0 if mean is None else mean[head]
        return value

    return change


def means_of(model: Transformer, windows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Return the mean of every part's output over all positions: (D,), or (H, 1, C) of heads."""
    sums: dict[str, Tensor] = {}

    def add(name: str) -> Change:
        def change(value: Tensor) -> Tensor:
            total = value.sum(dim=(0, 2))[:, None] if value.dim() == 4 else value.sum(dim=(0, 1))
            sums[name] = sums.get(name, torch.zeros_like(total)) + total
            return value

        return change

    names = {point_of(layer, head) for layer, head in parts_of(model)}
    with changed(model, {name: add(name) for name in names}):
        for window in windows:
            model.states(torch.tensor([list(window)], device=model.device))
    positions = sum(map(len, windows))
    return {name: total / positions for name, total in sums.items()}


def scores(model: Transformer, windows: Sequence[Sequence[int]], scored_from: int) -> tuple[float, float]:
    """Return loss and lead of the tokens from `scored_from` on in each window, as means over all of them."""
    loss, lead, count = 0.0, 0.0, 0
    for window in windows:
        ids = torch.tensor(list(window), device=model.device)
        first = max(1, scored_from)
        logits = model.unembed(model.states(ids[None])[0, first - 1 : -1]).float()
        targets = ids[first:, None]
        loss += float(F.cross_entropy(logits, targets[:, 0], reduction="sum"))
        others = logits.scatter(1, targets, float("-inf")).amax(dim=1)
        lead += float((logits.gather(1, targets)[:, 0] - others).sum())
        count += len(targets)
    return loss / max(1, count), lead / max(1, count)
