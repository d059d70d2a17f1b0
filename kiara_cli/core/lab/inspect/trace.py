"""One forward pass with the values of its points; and forward passes in which values are changed.

In: a model and ids. Out: `Trace`; or, for the length of a `with` block, functions at some of the model's points.
Everything is computed in the precision of the weights, with no cache.

L layers, H heads, T positions, D width, C head width, F hidden width, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from kiara_cli.core.model.points import points
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError

Change = Callable[[Tensor], Tensor]  # the value at a point, with its batch dimension → the value that takes its place
READ = (
    "embed.out", "pos_embed.out", "blocks.*.resid_pre", "blocks.*.attention.v", "blocks.*.attention.pattern",
    "blocks.*.attention.heads", "blocks.*.attention.out", "blocks.*.resid_mid", "blocks.*.feedforward.hidden",
    "blocks.*.feedforward.out", "blocks.*.resid_post", "logits",
)  # fmt: skip


@dataclass(frozen=True)
class Trace:
    """What passed the points in one forward pass over `ids`: values by the names of the points, without a batch."""

    ids: list[int]
    values: Mapping[str, Tensor]

    def at(self, layer: int, name: str) -> Tensor:
        """Return the value at a point of a block, such as `attention.pattern`."""
        return self.values[f"blocks.{layer}.{name}"]

    @property
    def logits(self) -> Tensor:
        """(T, V)."""
        return self.values["logits"]


@torch.no_grad()
def trace(model: Transformer, ids: Sequence[int], read: Collection[str] = READ) -> Trace:
    """Read the points whose names match one of the patterns `read`, in one forward pass.

    What hooks that are there already make of a value is what is read. Raises KiaraError if the logits are no numbers.
    """
    check_length(model, ids)
    values: dict[str, Tensor] = {}

    def keep(name: str) -> Change:
        def change(value: Tensor) -> Tensor:
            values[name] = (value if name == "pos_embed.out" else value[0]).float()
            return value

        return change

    found = [name for name in points(model) if any(fnmatchcase(name, pattern) for pattern in read)]
    with changed(model, {name: keep(name) for name in found}):
        logits = model(torch.tensor([list(ids)], device=model.device))[0].float()
    if not bool(logits.isfinite().all()):
        raise KiaraError(
            "the model's scores are not finite numbers", "its training has diverged: use an earlier checkpoint"
        )
    return Trace(list(ids), values)


@contextlib.contextmanager
def changed(model: Transformer, changes: Mapping[str, Change]) -> Iterator[None]:
    """Put functions at points for the length of the block, after the hooks that are there; in eval mode."""
    found, was_training = points(model), model.training
    handles = []
    try:
        model.eval()
        for name, change in changes.items():
            handles.append(
                found[name].register_forward_hook(lambda module, inputs, output, change=change: change(output))
            )
        yield
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)


def check_length(model: Transformer, ids: Sequence[int]) -> None:
    """Raise KiaraError for more ids than the model reads at once, or none."""
    context = model.config.context_length
    if not ids:
        raise KiaraError("there is no token to look at", "give a --prompt")
    if len(ids) > context:
        raise KiaraError(
            f"the prompt with its answer is {len(ids)} tokens long, and this model reads {context} at once",
            "shorten --prompt, or the answer by --answer or --tokens",
        )
