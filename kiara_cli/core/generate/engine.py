"""READ THIRD. Prompt ids in, sampled ids out: several sequences at a time, a token of each a step. It knows no text.

`Engine` owns the requests and the KV cache. A prompt is read in passes of many positions (prefill); from then on each
new token costs one position, and all sequences share a decode step. When a sequence has filled the context, its
oldest half is forgotten and the rest is read again from position 0: see `window_start`.

B sequences, T new positions, D width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, SupportsIndex

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.generate.backend import SWITCHED_OFF, Backend, choose
from kiara_cli.core.generate.request import ActiveRequest, FinishReason, GenerationRequest, Token, window_start
from kiara_cli.core.generate.sampling import sample
from kiara_cli.core.generate.scheduler import Prefixes, Slots
from kiara_cli.core.generate.speculative import draft
from kiara_cli.core.generate.step import decode_step
from kiara_cli.core.model.cache import position_bytes
from kiara_cli.core.model.fastpath import why_plain
from kiara_cli.core.model.points import hooked, points
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.adaptive import Threads
from kiara_cli.core.runtime.device import DTYPES, Runtime
from kiara_cli.errors import KiaraError

__all__ = ["Engine", "FinishReason", "GenerationRequest", "Options", "Token", "window_start"]

log = logging.getLogger("kiara.generate")

# In bf16 prompts are read in multiples of so many positions: oneDNN prepares and keeps code for every other number.
READ = 16
PASS = 512  # positions read between two decode steps, at most: so long do the others wait for a new prompt


@dataclass(frozen=True)
class Options:
    """How an engine works; none of it changes what is written, but for rounding.

    Without the cache every token reads its whole window again: slow, and the same tokens.
    """

    streams: int = 16  # sequences written at the same time; more of them wait
    cache: bool = True
    cache_dtype: Literal["auto", "fp32", "bf16", "int8"] = "auto"  # auto: what products run in
    cache_bytes: int | None = None  # at most for the KV cache; None: for as many streams of the whole context
    prefix_bytes: int = 0  # for what ended sequences have read, so that it is not read again
    fast: bool = True  # False: the model's own forward pass for every token
    native: bool | str = False  # the decode step in C; "auto": where a C compiler is found


class Engine:
    """Samples from a model. Puts it in eval mode; weights and device stay as they are.

    `forbidden` (V,) marks ids that must never be sampled, unless a request names them as stop ids. In bf16 the
    engine works on a bf16 copy of the weights as they are now. `context` is how many tokens it reads at most: the
    model's context length, or what `cache_bytes` allow one sequence.
    """

    def __init__(
        self,
        model: Transformer,
        runtime: Runtime,
        forbidden: Tensor | None = None,
        options: Options = Options(),
    ) -> None:
        assert model.config.vocab_size is not None
        self.config, self.options, self.runtime = model.config, options, runtime
        self.vocab_size = model.config.vocab_size
        self.device = model.device
        if forbidden is None:
            forbidden = torch.zeros(self.vocab_size, dtype=torch.bool)
        assert forbidden.shape == (self.vocab_size,)
        self.forbidden = forbidden.to(self.device)
        self.dtype = DTYPES[runtime.dtype]
        self.original = model.eval()
        self.threads = Threads.of(runtime)
        self._hooks = 0
        self.slots = self._make_slots()
        self.context = self.slots.context
        self.backend = self._decide()
        self.prefixes = Prefixes(options.prefix_bytes)
        self.waiting: deque[ActiveRequest] = deque()  # in the order in which they came
        self._submitted = 0
        self._biased: list[ActiveRequest] = []
        self._bias = torch.zeros(0)

    def generate(
        self, prompt: Sequence[int], config: GenerateConfig, stop_ids: frozenset[int] = frozenset()
    ) -> Iterator[Token]:
        """Yield every sampled token, a stop id included; the last carries the reason to finish."""
        yield from self.follow(self.submit(GenerationRequest(prompt, config, stop_ids)))

    def submit(self, asked: GenerationRequest) -> ActiveRequest:
        """Queue a request; `step` or `follow` moves it on. Raises KiaraError for ids that the model does not have."""
        ids = [*asked.prompt, *asked.stop_ids, *asked.logit_bias]
        # The exact type first: to ask about the protocol takes far longer, and that for each id of a prompt.
        strange = [
            i for i in ids if not ((type(i) is int or isinstance(i, SupportsIndex)) and 0 <= i < self.vocab_size)
        ]
        if strange or not asked.prompt:
            cause = f"the model has no token {strange[0]!r}" if strange else "a prompt holds no ids"
            raise KiaraError(cause, f"give at least one id, each from 0 to {self.vocab_size - 1}")
        self._submitted += 1
        request = ActiveRequest(asked, self.forbidden, self._submitted)
        self.waiting.append(request)
        return request

    def follow(self, request: ActiveRequest) -> Iterator[Token]:
        """Yield the tokens of a request as they come, moving on all others as well; cancel it when left.

        Raises KiaraError where the request ends with an error; the others go on.
        """
        try:
            while request.events or not (request.finished or request.cancelled):
                if request.events:
                    token = request.events.popleft()
                    if token.error is not None:
                        raise token.error
                    yield token  # outside of `step`: the caller must not inherit its modes
                else:
                    self.step()
        finally:
            if not request.finished:
                request.cancel()  # the next step lets it go

    @property
    def model(self) -> Transformer:
        """What reads prompts: the model itself or a copy of it in bf16."""
        return self.backend.model

    @property
    def busy(self) -> bool:
        """Say whether a step would do anything."""
        return bool(self.waiting or self.slots.requests)

    @torch.inference_mode()
    def step(self) -> None:
        """Write one token of every sequence being written, and read at most PASS positions of those that begin."""
        with self.threads.step():
            self._step()

    def _step(self) -> None:
        if self.model.training:
            self.model.eval()
        if RemovableHandle.next_id != self._hooks and self.backend.plain_because != SWITCHED_OFF:
            self._hooks = RemovableHandle.next_id
            if why_plain(self.original) != self.backend.plain_because:
                self.backend = self._decide()
        for request in [*self.slots.requests, *self.waiting]:
            if request.cancelled:
                self._release(request)
        self._schedule()
        writing: list[ActiveRequest] = []
        reading: list[ActiveRequest] = []
        for request in self.slots.requests:
            (writing if self.backend.fast and request.filled and request.unread == 1 else reading).append(request)
        self.threads.kind = None if reading else len(writing)
        self._write([request for request in writing if not (request.config.speculate and self._guess(request))])
        left = PASS
        for request in reading:
            left -= self._read(request, left)

    def _decide(self) -> Backend:
        """Choose what computes the scores, for the model as it is now."""
        self._watched = hooked(*points(self.original).values())  # a hook is to see no position but the text's
        self._hooks = RemovableHandle.next_id  # grows with every hook that any module gets
        options = self.options
        fast = options.fast and options.cache
        return choose(self.original, self.runtime, self.slots.cache, fast, options.native)

    def _schedule(self) -> None:
        """Give slots of the cache to the requests that came first, as many as there are and memory allows.

        Where the cache cannot grow as it must, the request that came last goes back to waiting: what it has read and
        written is read again later.
        """
        held = self.slots.requests
        for request in held:
            request.slide(self.context)
        while held and not self.slots.reserve(len(held), max(map(self._positions, held))):
            last = max(held, key=lambda request: request.number)
            self._release(last)
            last.filled = 0
            self.waiting.appendleft(last)
        while self.waiting:
            first = self.waiting[0]
            first.slide(self.context)
            if not self.slots.admit(first, max(map(self._positions, (*held, first)))):
                break
            self.waiting.popleft()

    def _positions(self, request: ActiveRequest) -> int:
        """Return how many positions of the cache a request may use in its next step."""
        return min(request.length + request.config.speculate + READ, self.context) if self.options.cache else 1

    def _write(self, requests: list[ActiveRequest]) -> None:
        """Write the next token of each of the requests, in one decode step."""
        if not requests:
            return
        logits = self._eager_step(requests) if self.backend.compiled is None else self._compiled_step(requests)
        for request in requests:
            request.filled += 1
        self._choose(requests, logits)

    def _eager_step(self, requests: list[ActiveRequest]) -> Tensor:
        """Return the scores (B, V) of B requests by torch's operators.

        Slots of requests that are still being read go along: what is stored there is overwritten by the read.
        """
        held = self.slots.requests
        for request in held:
            request.slide(self.context)  # one that guessed may have filled the context in this very step
        token = torch.tensor([r.ids[r.start + r.filled] for r in held], device=self.device)  # (B,)
        position = torch.tensor([r.filled for r in held], device=self.device)
        span = max(r.filled for r in held) + 1
        visible = None
        if len(held) > 1:
            visible = (torch.arange(span, device=self.device) <= position[:, None])[:, None, None]
        layers = self.slots.layers(len(held))
        logits = decode_step(self.config, self.backend.weights, self.dtype, token, position, span, layers, visible)
        return logits if len(requests) == len(held) else logits[[held.index(request) for request in requests]]

    def _compiled_step(self, requests: list[ActiveRequest]) -> Tensor:
        """Return the same by compiled code."""
        assert self.backend.compiled is not None
        if self.threads.adapts:
            self.backend.compiled.use(self.threads.count)
        slots = [self.slots.requests.index(request) for request in requests]
        return self.backend.compiled(
            [r.ids[r.start + r.filled] for r in requests], slots, [r.filled for r in requests]
        )

    def _make_slots(self) -> Slots:
        """Make the KV cache, and say so once if it limits the context."""
        options = self.options
        kept = {"auto": self.dtype, "fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
        slots = Slots(self.config, options.streams, self.device, kept[options.cache_dtype], options.cache_bytes)
        if slots.context < self.config.context_length:
            limits = f"{slots.context:,} of {self.config.context_length:,} tokens"
            if slots.context < 2:
                least = 2 * position_bytes(self.config, slots.cache.dtype)
                cause = f"generate.cache_bytes={options.cache_bytes} is enough for {limits}"
                raise KiaraError(cause, f"set it to {least} or more", key="generate.cache_bytes")
            log.warning("The context is limited to %s by generate.cache_bytes=%s.", limits, options.cache_bytes)
        return slots

    def _read(self, request: ActiveRequest, most: int) -> int:
        """Read at most `most` more positions of a request; after the last one, write its first token.

        Returns how many were read. Without the cache it is the whole window, for every token.
        """
        if self.options.cache and not request.filled:
            self.slots.reuse(request, self.prefixes)
        fresh = request.window[request.filled :]
        whole = True
        if self.options.cache:
            whole, fresh = len(fresh) <= most, fresh[:most]
        if not fresh:
            return 0
        logits = self._scores(request, fresh, 1)
        if self.options.cache:
            request.filled += len(fresh)
        if whole:
            self._choose([request], logits)
        return len(fresh)

    def _guess(self, request: ActiveRequest) -> bool:
        """Write several tokens in one pass, if the sequence repeats itself and the request allows it: see `draft`."""
        left = request.config.max_new_tokens - request.written - 1
        unused = self.context - request.length
        guess = draft(request.ids, min(request.config.speculate, left, unused))
        if not guess:
            return False
        fresh = [request.ids[-1], *guess]
        for row, following in zip(self._scores(request, fresh, len(fresh)), [*guess, None], strict=True):
            request.filled += 1
            self._choose([request], row[None])
            if request.finished or request.ids[-1] != following:
                break
        return True

    def _scores(self, request: ActiveRequest, fresh: list[int], last: int) -> Tensor:
        """Run the model over ids that continue a request; return the scores after the `last` of them, (last, V)."""
        cache = self.slots.view(request) if self.options.cache else None
        spare = 0
        # What comes later is not looked at, and overwritten.
        if cache is not None and self.dtype == torch.bfloat16 and not self._watched:
            spare = min(-len(fresh) % READ, cache.free - len(fresh))
        ids = torch.tensor([[*fresh, *[0] * spare]], device=self.device)  # (1, T)
        with self.runtime.precision() if self.model is self.original else contextlib.nullcontext():
            x = self.model.states(ids, cache)[0, len(fresh) - last : len(fresh)]  # (last, D): others need no scores
            logits: Tensor = self.model.unembed(x).float()
        return logits

    def _choose(self, requests: list[ActiveRequest], logits: Tensor) -> None:
        """Sample the next id of each request from its scores (B, V), and release those that end.

        Scores that are not finite numbers end their request with an error.
        """
        scores = logits + self._biases(requests)
        faults: dict[int, KiaraError] = {}  # by row
        for row, request in enumerate(requests):
            if request.constraint is not None:
                try:
                    scores[row] = request.constrain(scores[row])
                except KiaraError as error:
                    faults[row] = error
            if request.penalizes:
                scores[row] = request.penalize(scores[row : row + 1])[0]
        best, ids = scores.max(dim=-1)  # the best score is not finite if any is NaN or infinite, or all are forbidden
        ways: dict[GenerateConfig, list[int]] = {}
        for row, request in enumerate(requests):
            if request.config.temperature:
                ways.setdefault(request.sampling_params, []).append(row)
        for sampling_params, rows in ways.items():
            chances = torch.cat([requests[row].chance() for row in rows])
            ids[rows] = sample(scores[rows], sampling_params, chances)
        chosen = zip(requests, best.tolist(), ids.tolist(), strict=True)  # waits for the device
        for row, (request, score, token) in enumerate(chosen):
            if row in faults:
                request.fail(faults[row])
            elif not math.isfinite(score):
                cause = "the model's scores are not finite numbers"
                request.fail(KiaraError(cause, "its training has diverged: use an earlier checkpoint"))
            else:
                try:
                    request.take(token, None if request.asked.logprobs is None else logits[row])
                except KiaraError as error:  # of its grammar
                    request.fail(error)
            if request.finished:
                self._release(request)

    def _biases(self, requests: list[ActiveRequest]) -> Tensor:
        """Return what is added to the scores of each request, (B, V); kept from step to step."""
        if self._biased != requests:
            self._biased, self._bias = list(requests), torch.stack([request.bias for request in requests])
        return self._bias

    def _release(self, request: ActiveRequest) -> None:
        """Remove a request, wherever it is; what it has read may serve another, but not after an error."""
        if request in self.waiting:
            self.waiting.remove(request)
        elif request in self.slots.requests:
            if not request.failed:
                self.prefixes.keep(request.window[: request.filled], self.slots, request)
            self.slots.free(request, clean=request.failed)
