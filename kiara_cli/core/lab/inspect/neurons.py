"""Which neurons of a feedforward are active, and what excites one of them.

In: a trace, or a text as ids. Out: `Active`: the strongest neurons at each token; `Neuron`: one neuron's activation
over all tokens and the tokens that excite it most. An activation is what is multiplied with the projection down:
after the activation function and the gate.

L layers, T positions, F hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kiara_cli.core.lab.inspect.trace import Trace, trace
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError


@dataclass(frozen=True)
class Active:
    """The neurons with the largest activations by magnitude at a token, the largest first."""

    position: int
    neurons: list[tuple[int, float]]


@dataclass(frozen=True)
class Excited:
    """A token at which a neuron is strongly active, with the ids before it."""

    before: list[int]
    token: int
    activation: float


@dataclass(frozen=True)
class Neuron:
    """A neuron: its activation at each token of the prompt, and the tokens of all texts that excite it most."""

    layer: int
    index: int
    activations: list[float]
    excited: list[Excited]
    share: float  # of all tokens at which it is above a tenth of its maximum
    tokens: int  # how many were read


def active(trace: Trace, layer: int, top: int = 5) -> list[Active]:
    """Return the strongest neurons of a layer at each token."""
    hidden = trace.at(layer, "feedforward.hidden")  # (T, F)
    best = hidden.abs().topk(min(top, hidden.shape[1]), dim=1).indices
    return [
        Active(place, [(int(index), float(hidden[place, index])) for index in row]) for place, row in enumerate(best)
    ]


def neuron(model: Transformer, prompt: Trace, windows: Sequence[Sequence[int]], layer: int, index: int,
           top: int = 10, context: int = 6) -> Neuron:  # fmt: skip
    """Follow one neuron over the prompt and through a text in windows. Raises KiaraError if there is none."""
    check(model, layer, index)
    point = f"blocks.{layer}.feedforward.hidden"
    found: list[tuple[float, Sequence[int], int]] = []
    values = []
    for window in windows:
        seen = trace(model, window, (point,)).at(layer, "feedforward.hidden")[:, index]
        values.append(seen)
        best = seen.topk(min(top, len(seen)))
        found += [(value, window, place) for value, place in zip(best.values.tolist(), best.indices.tolist(),
                                                                 strict=True)]  # fmt: skip
    found.sort(key=lambda one: -one[0])
    every: Tensor = torch.cat(values)
    excited = [Excited(list(window[max(0, place - context) : place]), window[place], value)
               for value, window, place in found[:top]]  # fmt: skip
    share = float((every > every.max() / 10).float().mean()) if float(every.max()) > 0 else 0.0
    own = prompt.at(layer, "feedforward.hidden")[:, index]
    return Neuron(layer, index, own.tolist(), excited, share, len(every))


def check(model: Transformer, layer: int, index: int) -> None:
    """Raise KiaraError for a layer or a neuron that the model does not have."""
    check_layer(model, layer)
    if not 0 <= index < model.config.hidden_dim:
        raise KiaraError(
            f"--neuron {layer}:{index}: a layer of this model has {model.config.hidden_dim} neurons",
            f"give one from 0 to {model.config.hidden_dim - 1}",
        )


def check_layer(model: Transformer, layer: int) -> None:
    """Raise KiaraError for a layer that the model does not have."""
    if not 0 <= layer < model.config.n_layers:
        raise KiaraError(
            f"the model has {model.config.n_layers} layers, and no layer {layer}",
            f"give one from 0 to {model.config.n_layers - 1}",
        )
