"""A request: what was asked, its state while it is in progress, and how its next id is chosen.

In: scores of the next token. Out: `Token`s, in a queue that whoever asked reads from.

V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.generate import sampling
from kiara_cli.core.generate.grammar import Grammar
from kiara_cli.errors import KiaraError

SAMPLING = ("temperature", "top_k", "top_p", "min_p")  # requests that agree in them are sampled together
DEFAULT_SAMPLING = GenerateConfig()
FinishReason: TypeAlias = Literal["stop", "length", "error"]


@dataclass(frozen=True)
class Token:
    """A sampled id. The last one says why: a stop id or the end of a grammar ("stop"), or max_new_tokens ("length").

    A request that ends by a fault ("error") has as its last event one with an `error`, and no id (-1).

    On request it carries its log-probability, and the likeliest ids with theirs, best first: those of the model
    itself, before temperature, filters and a grammar.
    """

    id: int
    finish_reason: FinishReason | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    error: KiaraError | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """What to write: the ids to continue and how. `logprobs` asks for that many alternatives at each token.

    With a `grammar` only what it allows is written, and the text ends with it; `resumed` are the last ids of the
    prompt if they belong to that text already.
    """

    prompt: Sequence[int]
    config: GenerateConfig
    stop_ids: frozenset[int] = frozenset()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    grammar: Grammar | None = None
    resumed: Sequence[int] = ()


def window_start(length: int, context: int) -> int:
    """Return the index of the oldest of `length` tokens that the model still reads.

    Zero while they fit. Beyond that it moves on by half a context at a time, so that what was read stays
    valid for another half: a window that moved by one would give every token a new position, and all of it
    would have to be read again for each.
    """
    half = context // 2
    too_many = max(0, length - context)
    return -(-too_many // half) * half  # rounded up to whole halves


class ActiveRequest:
    """A request in progress. The engine moves it on; `cancel` may be called from anywhere, at any time."""

    def __init__(self, asked: GenerationRequest, forbidden: Tensor, number: int = 0) -> None:
        self.asked, self.config = asked, asked.config
        self.number = number  # in the order in which requests came
        self.ids = [int(token) for token in asked.prompt]
        self.events: deque[Token] = deque()
        self.cancelled = False
        self.finished = self.failed = False
        self.start = 0  # of the window that the cache holds
        self.filled = 0  # positions of the window that the cache holds
        self.sampled: Counter[int] = Counter()
        self.constraint = asked.grammar.start(asked.stop_ids, asked.resumed) if asked.grammar else None
        self.generator = torch.Generator()  # on the CPU: a seed means the same on every device
        if asked.config.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(asked.config.seed)
        bias = torch.zeros(forbidden.shape)  # made on the CPU, where single numbers cost nothing
        for token, value in asked.logit_bias.items():
            bias[token] = value
        bias.masked_fill_(forbidden.cpu(), -math.inf)
        for token in asked.stop_ids:
            bias[token] = asked.logit_bias.get(token, 0.0)
        self.bias = bias.to(forbidden.device)  # (V,), added to the scores

        self.sampling_params = dataclasses.replace(
            DEFAULT_SAMPLING, **{name: getattr(self.config, name) for name in SAMPLING}
        )

    @property
    def written(self) -> int:
        """How many ids were sampled so far."""
        return len(self.ids) - len(self.asked.prompt)

    @property
    def length(self) -> int:
        """How many ids the model still reads."""
        return len(self.ids) - self.start

    @property
    def unread(self) -> int:
        """Ids of the window that the cache does not hold yet."""
        return self.length - self.filled

    @property
    def window(self) -> list[int]:
        """The ids that the model still reads."""
        return self.ids[self.start :]

    def cancel(self) -> None:
        """Ask for no more tokens; the engine forgets the request at its next step."""
        self.cancelled = True

    def slide(self, context: int) -> None:
        """Move the window to where it belongs; all of it must then be read again."""
        start = window_start(len(self.ids), context)
        if start != self.start:
            self.start, self.filled = start, 0

    def chance(self) -> Tensor:
        """Return the randomness of the next token, (1,)."""
        return sampling.chance(self.generator)

    def constrain(self, scores: Tensor) -> Tensor:
        """Keep of scores (V,) what the grammar allows next. Raises KiaraError where that is nothing."""
        assert self.constraint is not None
        return torch.where(self.constraint.allowed().to(scores.device), scores, sampling.NEVER)

    def penalize(self, scores: Tensor) -> Tensor:
        """Apply the penalties, which depend on the ids so far, to scores (1, V)."""
        config = self.config
        if config.repetition_penalty != 1:  # a stop id is no repetition of an earlier one
            seen = self._marks({*self.asked.prompt} - self.asked.stop_ids | set(self.sampled), scores)
            scores = sampling.penalize_repetition(scores, seen > 0, config.repetition_penalty)
        if config.frequency_penalty or config.presence_penalty:
            counts = self._marks(self.sampled, scores)
            scores = sampling.penalize_counts(scores, counts, config.frequency_penalty, config.presence_penalty)
        if config.no_repeat_ngram is not None:
            ends = [i for i in sampling.ngram_ends(self.ids, config.no_repeat_ngram) if i not in self.asked.stop_ids]
            banned = self._marks(dict.fromkeys(ends, 1), scores) > 0
            left = scores.masked_fill(banned, sampling.NEVER)
            scores = left if bool(left.isfinite().any()) else scores  # something has to be said
        return scores

    @property
    def penalizes(self) -> bool:
        config = self.config
        off = config.repetition_penalty == 1 and not config.frequency_penalty and not config.presence_penalty
        return not off or config.no_repeat_ngram is not None

    def take(self, token: int, scores: Tensor | None) -> Token:
        """Append a sampled id and return the event to send; `scores` (V,) are the model's own, if asked for.

        Raises KiaraError for an id that the grammar forbids.
        """
        if self.constraint is not None:
            self.constraint.take(token)
        self.ids.append(token)
        self.sampled[token] += 1
        reason: FinishReason | None = None
        if token in self.asked.stop_ids or (self.constraint is not None and self.constraint.complete):
            reason = "stop"
        elif self.written >= self.config.max_new_tokens:
            reason = "length"
        self.finished = reason is not None
        logprob: float | None = None
        top: tuple[tuple[int, float], ...] = ()
        if scores is not None and self.asked.logprobs is not None:
            logprobs = scores.log_softmax(dim=-1)
            best = logprobs.topk(min(self.asked.logprobs, len(logprobs)))
            logprob = float(logprobs[token])
            top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        event = Token(token, reason, logprob, top)
        self.events.append(event)
        return event

    def fail(self, error: KiaraError) -> None:
        """End with an error."""
        self.finished = self.failed = True
        self.events.append(Token(-1, "error", error=error))

    def _marks(self, ids: Mapping[int, int] | set[int], scores: Tensor) -> Tensor:
        """Return how often each id counts, (1, V)."""
        counts = ids if isinstance(ids, Mapping) else dict.fromkeys(ids, 1)
        out = torch.zeros(scores.shape, dtype=scores.dtype)
        out[0, list(counts.keys())] = torch.tensor(list(counts.values()), dtype=out.dtype)
        return out.to(scores.device)
