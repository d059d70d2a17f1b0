"""READ THIRD. Prompt ids in, sampled ids out, one at a time. It knows no text.

`Engine` owns the cache. The prompt is read in one pass, then each new token costs one position. When the
context is full, its oldest half is forgotten and the rest is read again from position 0: see `window_start`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.generate.sampling import sample
from kiara_cli.core.model.cache import Cache
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import DTYPES, Runtime
from kiara_cli.errors import KiaraError

FinishReason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True)
class Token:
    """A sampled id. The last one says why: a stop id ("stop"), or max_new_tokens reached ("length")."""

    id: int
    finish_reason: FinishReason | None = None


def window_start(length: int, context: int) -> int:
    """Return the index of the oldest of `length` tokens that the model still reads.

    Zero while they fit. Beyond that it moves on by half a context at a time, so that what was read stays
    valid for another half: a window that moved by one would give every token a new position, and all of it
    would have to be read again for each.
    """
    half = context // 2
    too_many = max(0, length - context)
    return -(-too_many // half) * half  # rounded up to whole halves


class Engine:
    """Samples from a model. Puts it in eval mode; weights and device stay as they are.

    `forbidden` (V,) marks ids that must never be sampled, unless a request names them as stop ids.
    Without the cache every token reads its whole window again: slow, and the same tokens.
    """

    def __init__(
        self, model: Transformer, runtime: Runtime, forbidden: Tensor | None = None, use_cache: bool = True
    ) -> None:
        assert model.config.vocab_size is not None
        self.model, self.runtime, self.use_cache = model, runtime, use_cache
        self.vocab_size = model.config.vocab_size
        self.context = model.config.context_length
        if forbidden is None:
            forbidden = torch.zeros(self.vocab_size, dtype=torch.bool)
        assert forbidden.shape == (self.vocab_size,)
        self.forbidden = forbidden.to(model.device)

    def generate(
        self, prompt: Sequence[int], config: GenerateConfig, stop_ids: frozenset[int] = frozenset()
    ) -> Iterator[Token]:
        """Yield every sampled token, a stop id included; the last carries the reason to finish.

        The prompt holds at least one id. Raises KiaraError if the model's scores are not numbers.
        """
        assert len(prompt) > 0, "the text layer starts a document where there is no prompt"
        assert min(prompt) >= 0, "ids are indices"
        assert max(prompt) < self.vocab_size, "the prompt's ids come from the model's own tokenizer"
        self.model.eval()
        request = _Request(self, prompt, config, stop_ids)
        for left in reversed(range(config.max_new_tokens)):
            token = self._step(request)
            reason: FinishReason | None = "stop" if token in stop_ids else "length" if left == 0 else None
            yield Token(token, reason)  # outside of _step: the caller must not inherit its modes
            if reason is not None:
                return

    @torch.inference_mode()
    def _step(self, request: _Request) -> int:
        """Sample the next id of a request and append it."""
        logits = self._read(request)
        chosen = sample(logits, request.config, request.generator, request.seen, request.forbidden)
        token = int(chosen)  # waits for the device
        request.append(token)
        return token

    def _read(self, request: _Request) -> Tensor:
        """Read what the cache does not hold yet; return the scores of the next token, (1, V) in float32."""
        start = window_start(len(request.ids), self.context)
        fresh = request.unread(start)
        ids = torch.tensor([fresh], device=self.model.device)  # (1, T)
        with self.runtime.precision():
            x = self.model.states(ids, request.cache)[:, -1]  # (1, D): earlier positions need no scores
            logits: Tensor = self.model.head(x).float()  # (1, V)
        whole = len(fresh) == len(request.ids) - start
        if whole and not bool(logits.isfinite().all()):  # not for every token: it waits for the device
            raise KiaraError(
                "the model's scores are not finite numbers",
                "its training has diverged: use an earlier checkpoint",
            )
        return logits


class _Request:
    """What one generation needs from token to token."""

    def __init__(
        self, engine: Engine, prompt: Sequence[int], config: GenerateConfig, stop_ids: frozenset[int]
    ) -> None:
        model, device = engine.model, engine.model.device
        self.ids = list(prompt)
        self.config = config
        self.start = 0  # of the window the cache holds
        self.cache = Cache(model.config, 1, device, DTYPES[engine.runtime.dtype]) if engine.use_cache else None
        self.generator = torch.Generator(device)
        if config.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(config.seed)
        self.forbidden = engine.forbidden.clone()
        self.forbidden[list(stop_ids)] = False
        self.seen: Tensor | None = None  # (1, V); the end of a text is no repetition of an earlier end
        if config.repetition_penalty != 1:
            self.seen = torch.zeros(1, engine.vocab_size, dtype=torch.bool, device=device)
            self.seen[0, list(set(prompt) - stop_ids)] = True

    def unread(self, start: int) -> list[int]:
        """Return the ids from `start` on that the cache does not hold; it forgets all if the window moved."""
        if self.cache is None:
            return self.ids[start:]
        if start != self.start:
            self.start = start
            self.cache.clear()
        return self.ids[start + self.cache.length :]

    def append(self, token: int) -> None:
        self.ids.append(token)
        if self.seen is not None:
            self.seen[0, token] = True
