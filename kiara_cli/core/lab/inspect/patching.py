"""Which activations carry the difference between two prompts (activation patching: Meng et al., 2022; Heimersheim and
Nanda, 2024).

In: two lists of ids of the same length, clean and corrupt, and a metric of the logits after the last one. Out:
`Patched`, for each kind of activation a map, layer × position: what the metric becomes when, in a pass over the
corrupt prompt, this one activation is that of the clean one. 0 is as corrupt, 1 as clean.

L layers, H heads, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kiara_cli.core.lab.inspect.ablation import Done
from kiara_cli.core.lab.inspect.trace import READ, Change, changed, trace
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError

KINDS = ("resid_pre", "attention.out", "feedforward.out")
ROWS = 32  # passes that are made together
Metric = Callable[[Tensor], Tensor]  # logits (B, V) → (B,)


@dataclass(frozen=True)
class Patched:
    """What patching found. `maps` are (L, T) by kind, `heads` (L, H), all in shares of clean - corrupt."""

    metric: str
    clean: float
    corrupt: float
    maps: Mapping[str, Tensor]
    heads: Tensor

    @property
    def span(self) -> float:
        return self.clean - self.corrupt


def logit_difference(token: int, other: int) -> Metric:
    """Return the metric logit(token) - logit(other)."""
    return lambda logits: logits[:, token] - logits[:, other]


def log_probability(token: int) -> Metric:
    """Return the metric log p(token), in nats."""
    return lambda logits: logits.log_softmax(dim=-1)[:, token]


@torch.no_grad()
def patch(
    model: Transformer,
    clean: Sequence[int],
    corrupt: Sequence[int],
    metric: Metric,
    name: str,
    done: Done = lambda count, of: None,
) -> Patched:
    """Patch every layer and position of each kind, and every head at all positions. Raises KiaraError for prompts of
    different lengths, and where the metric is the same for both."""
    if len(clean) != len(corrupt):
        raise KiaraError(
            f"the prompts have {len(clean)} and {len(corrupt)} tokens", "give two with as many tokens each"
        )
    source = trace(model, clean, READ)
    before = float(metric(source.logits[-1:]))
    after = float(metric(run(model, corrupt, 1, {})))
    if abs(before - after) < 1e-6:
        raise KiaraError(
            f"{name} is {before:.4f} for both prompts: there is nothing to explain",
            "give a --corrupt that changes the answer, or another --answer",
        )
    L, T, H = model.config.n_layers, len(clean), model.config.n_heads
    jobs, count = L * (len(KINDS) + 1), 0

    def shares(point: str, changes: Sequence[Change]) -> Tensor:
        nonlocal count
        found = [metric(run(model, corrupt, len(some), {point: together(some)})) for some in parted(changes)]
        count += 1
        done(count, jobs)
        return (torch.cat(found) - after) / (before - after)

    maps = {
        kind: torch.stack([
            shares(f"blocks.{layer}.{kind}", [at_position(source.at(layer, kind), place) for place in range(T)])
            for layer in range(L)
        ]).cpu()
        for kind in KINDS
    }  # fmt: skip
    by_head = [
        shares(f"blocks.{layer}.attention.heads",
               [at_head(source.at(layer, "attention.heads"), head) for head in range(H)])
        for layer in range(L)
    ]  # fmt: skip
    return Patched(name, before, after, maps, torch.stack(by_head).cpu())


def run(model: Transformer, ids: Sequence[int], rows: int, changes: Mapping[str, Change]) -> Tensor:
    """Return the logits (rows, V) after the last of some ids, read `rows` times side by side."""
    with changed(model, changes):
        states = model.states(torch.tensor([list(ids)] * rows, device=model.device))
        return model.unembed(states[:, -1]).float()


def at_position(value: Tensor, place: int) -> Change:
    """Return what puts a value (T, D) of another pass at one position of one row."""

    def change(row: Tensor) -> Tensor:
        row[place] = value[place].to(row.dtype)
        return row

    return change


def at_head(value: Tensor, head: int) -> Change:
    """Return what puts a value (H, T, C) of another pass in the place of a head of one row."""

    def change(row: Tensor) -> Tensor:
        row[head] = value[head].to(row.dtype)
        return row

    return change


def together(changes: Sequence[Change]) -> Change:
    """Return what makes one change in each row of a batch."""

    def change(value: Tensor) -> Tensor:
        value = value.clone()
        for row, one in enumerate(changes):
            value[row] = one(value[row])
        return value

    return change


def parted(changes: Sequence[Change]) -> list[Sequence[Change]]:
    return [changes[start : start + ROWS] for start in range(0, len(changes), ROWS)]


def first_difference(clean: Sequence[int], corrupt: Sequence[int]) -> int:
    """Return the first position at which two lists of ids differ."""
    return next(
        (place for place, (one, other) in enumerate(zip(clean, corrupt, strict=False)) if one != other),
        min(len(clean), len(corrupt)),
    )
