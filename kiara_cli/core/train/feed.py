"""The batches of an update, on the device.

In: a batcher and a position in its order. Out: inputs and targets, and how many targets there are. On CUDA the next
batches are drawn and sent while the device still works on these; on a CPU there is nobody to overlap with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kiara_cli.core.data.batches import IGNORE, Batcher
from kiara_cli.core.data.conversations import ConversationBatcher


@dataclass(frozen=True)
class Batches:
    """What one update learns from. `targets` counts over all of them, and is at least 1."""

    pairs: list[tuple[Tensor, Tensor]]  # inputs and targets, both (B, T)
    targets: int


class Feed:
    """Draw `accumulation` batches at a time."""

    def __init__(self, batcher: Batcher | ConversationBatcher, accumulation: int, device: torch.device) -> None:
        self._batcher, self._accumulation, self._device = batcher, accumulation, device
        self._ahead: tuple[int, Batches] | None = None

    def take(self, position: int) -> Batches:
        """Return the batches from number `position` on."""
        ready, self._ahead = self._ahead, None
        return ready[1] if ready is not None and ready[0] == position else self._draw(position)

    def prepare(self, position: int) -> None:
        """Draw ahead what will be taken next, where the device can work meanwhile."""
        if self._device.type == "cuda":
            self._ahead = position, self._draw(position)

    def _draw(self, position: int) -> Batches:
        pairs = [self._batcher.batch(position + index) for index in range(self._accumulation)]
        targets = sum(int((wanted != IGNORE).sum()) for _, wanted in pairs)
        return Batches([(self._send(inputs), self._send(wanted)) for inputs, wanted in pairs], max(1, targets))

    def _send(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)
