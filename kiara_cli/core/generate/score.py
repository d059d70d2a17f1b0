"""How likely a model finds the tokens of a prompt, each given those before it. Nothing is sampled.

In: ids. Out: a `Token` for each, with its log-probability and the likeliest ids with theirs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from kiara_cli.core.generate.engine import PASS, READ, Engine, Token
from kiara_cli.core.model.cache import Cache
from kiara_cli.errors import KiaraError

ROWS = 64  # positions whose logits (ROWS, V) are in memory at the same time


class Scorer:
    """Scores at least one id and at most `context`. `step` reads PASS positions, so that others need not wait long.

    The first token carries no log-probability, as nothing stands before it.
    """

    def __init__(self, engine: Engine, ids: Sequence[int], alternatives: int) -> None:
        assert 0 < len(ids) <= engine.context
        self.engine, self.ids, self.alternatives = engine, list(ids), alternatives
        self.tokens = [Token(self.ids[0])]
        self._cache: Cache | None = None
        if len(ids) > PASS:
            positions = min(len(ids) + READ, engine.context)
            self._cache = Cache(engine.config, 1, engine.device, engine.dtype, positions)

    @property
    def done(self) -> bool:
        return len(self.tokens) == len(self.ids)

    @torch.inference_mode()
    def step(self) -> None:
        """Score at most PASS more ids. Raises KiaraError if the scores are not numbers."""
        read = len(self.tokens) - 1
        states = self._read(self.ids[read : min(read + PASS, len(self.ids) - 1)])
        for start in range(0, len(states), ROWS):
            with self._precision():
                logits = self.engine.model.unembed(states[start : start + ROWS]).float()
            self._add(logits)

    def _read(self, fresh: list[int]) -> Tensor:
        """Return the states (T, D) of T ids that follow those already read."""
        spare = 0
        if self._cache is not None:  # as the engine does: in bf16 each other number of positions leaves code behind
            spare = min(-len(fresh) % READ, self._cache.free - len(fresh))
        ids = torch.tensor([[*fresh, *[0] * spare]], device=self.engine.device)
        with self._precision():
            states: Tensor = self.engine.model.states(ids, self._cache)
        if self._cache is not None:
            self._cache.length -= spare
        return states[0, : len(fresh)]

    def _add(self, logits: Tensor) -> None:
        """Turn logits (T, V) into the tokens that follow."""
        if not bool(logits.isfinite().all()):
            raise KiaraError(
                "the model's scores are not finite numbers", "its training has diverged: use an earlier checkpoint"
            )
        logprobs = logits.log_softmax(dim=-1)
        ids = self.ids[len(self.tokens) : len(self.tokens) + len(logprobs)]
        own = logprobs[range(len(ids)), ids].tolist()
        best = logprobs.topk(min(self.alternatives, logprobs.shape[-1]), dim=-1)
        for token, logprob, top, values in zip(ids, own, best.indices.tolist(), best.values.tolist(), strict=True):
            self.tokens.append(Token(token, None, logprob, tuple(zip(top, values, strict=True))))

    def _precision(self) -> contextlib.AbstractContextManager[None]:
        own_copy = self.engine.model is not self.engine.original
        return contextlib.nullcontext() if own_copy else self.engine.runtime.precision()
