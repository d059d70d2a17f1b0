"""An average of the weights over the last updates: smoother than the weights themselves (Polyak, 1992).

In: the weights after each update. Out: the same model with the average in their place, for as long as one asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kiara_cli.core.train.spread import put


class Average:
    """The exponential moving average of a model's weights; its decay is lower in the first steps."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._weights = [parameter for _, parameter in trained]
        self._names = [name for name, _ in trained]
        self._means = [parameter.detach().clone() for parameter in self._weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update number `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))  # TensorFlow's warm-up of the average
        torch._foreach_lerp_(self._means, [weight.detach() for weight in self._weights], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this block the model holds the average; then its own weights again, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """Return the average by the names of the weights."""
        return dict(zip(self._names, self._means, strict=True))

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up where another average was."""
        for name, mean in zip(self._names, self._means, strict=True):
            put(mean, state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, mean in zip(self._weights, self._means, strict=True):
            kept = weight.clone()
            weight.copy_(mean)
            mean.copy_(kept)
