"""Several devices that train one model: what each holds, what they tell each other, and how long that takes.

In: how many, how much is trained, and the links. Out: bytes and seconds of an update.

Ring algorithms (Patarasuk and Yuan, 2009): each of N devices sends (N - 1) / N of the bytes around once to gather or
to scatter, twice to reduce and give back, in N - 1 rounds each time, each with its latency. Nothing is taken off for
what runs beside the backward pass: the numbers are an upper bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Strategy = Literal["ddp", "fsdp"]
LATENCY = {"machine": 10e-6, "network": 30e-6}  # seconds a round; guesses
NUMBER = 4  # bytes: weights and gradients are exchanged in float32


@dataclass(frozen=True)
class Cluster:
    """`devices` of them, `together` in a machine."""

    devices: int
    together: int
    link: float  # bytes a second, one way, within a machine
    network: float  # between machines
    strategy: Strategy = "ddp"

    @property
    def machines(self) -> int:
        return math.ceil(self.devices / self.together)

    @property
    def slowest(self) -> float:
        """Bytes a second of the slowest link in a ring over all of them."""
        return self.link if self.machines == 1 else min(self.link, self.network)

    def bytes_sent(self, parameters: int, trained: int) -> float:
        """Return what each device sends for an update: of DDP gradients, reduced and given back; of FSDP weights,
        gathered for the forward and again for the backward pass, and gradients, scattered."""
        once = (self.devices - 1) / self.devices * NUMBER
        return once * 2 * trained if self.strategy == "ddp" else once * (2 * parameters + trained)

    def seconds(self, parameters: int, trained: int, layers: int, pieces: int) -> float:
        """Return the time of an update's exchanges. FSDP gathers for each of the pieces; gradients go once."""
        if self.devices == 1:
            return 0.0
        latency = LATENCY["machine" if self.machines == 1 else "network"]
        sent = self.bytes_sent(parameters, trained)
        rounds = 2 * (self.devices - 1)
        if self.strategy == "fsdp":
            once = (self.devices - 1) / self.devices * NUMBER
            sent = once * (2 * parameters * pieces + trained)
            rounds = (self.devices - 1) * (layers + 1) * (2 * pieces + 1)
        return sent / self.slowest + rounds * latency
