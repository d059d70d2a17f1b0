"""The next batches, made on another thread while the model works on this one.

In: a batcher. Out: the same batches, sooner; and how long anybody had to wait for them.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

from torch import Tensor

from kiara_cli.core.data.batches import Batcher
from kiara_cli.core.data.conversations import ConversationBatcher

DEPTH = 2  # batches made ahead

Batch: TypeAlias = tuple[Tensor, Tensor]


class Ahead:
    """Hands out what `batcher.batch(step)` returns. Any step may be asked for; the steps after it are made ahead."""

    def __init__(self, batcher: Batcher | ConversationBatcher) -> None:
        self.batcher = batcher
        self.waited = 0.0  # seconds, in all
        self._ready: dict[int, Future[Batch]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")

    def batch(self, step: int) -> Batch:
        """Return inputs and targets of a step, both (B, T) int64."""
        began = time.perf_counter()
        made = self._started(step).result()  # before more is begun: the other thread would compete with this one
        for known in [known for known in self._ready if not step < known <= step + DEPTH]:
            self._ready.pop(known).cancel()
        for coming in range(step + 1, step + DEPTH + 1):
            self._started(coming)
        self.waited += time.perf_counter() - began
        return made

    def _started(self, step: int) -> Future[Batch]:
        """Begin to make a batch, unless that was done before."""
        if step not in self._ready:
            self._ready[step] = self._pool.submit(self.batcher.batch, step)
        return self._ready[step]

    def close(self) -> None:
        """Stop making batches."""
        self._pool.shutdown(wait=False, cancel_futures=True)
