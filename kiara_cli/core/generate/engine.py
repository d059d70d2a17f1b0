"""READ THIRD. Prompt ids in, sampled ids out: several texts at a time, one token of each a step. It knows no text.

`Engine` owns the requests and the cache. A prompt is read in passes of many positions; from then on each new token
costs one position, and all texts that are being written share a tick. When a text has filled the context, its oldest
half is forgotten and the rest is read again from position 0: see `window_start`.

B rows, T new positions, D width, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.generate.compiled import Compiled, fits, load
from kiara_cli.core.generate.request import ActiveRequest, FinishReason, GenerationRequest, Token, window_start
from kiara_cli.core.generate.sampling import sample
from kiara_cli.core.generate.scheduler import Prefixes, Rows
from kiara_cli.core.generate.speculative import draft
from kiara_cli.core.generate.step import is_plain, tick, weights_of
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize.apply import in_dtype, pack_all
from kiara_cli.core.runtime.device import DTYPES, Runtime
from kiara_cli.core.runtime.native import CompilerError
from kiara_cli.errors import KiaraError

__all__ = ["Engine", "FinishReason", "GenerationRequest", "Options", "Token", "window_start"]

# In bf16 prompts are read in multiples of so many positions: oneDNN prepares and keeps code for every other number.
READ = 16
PASS = 512  # positions read between two ticks, at most: so long do texts being written wait for a new one's prompt


@dataclass(frozen=True)
class Options:
    """How an engine works; none of it changes what is written, but for rounding.

    Without the cache every token reads its whole window again: slow, and the same tokens.
    """

    streams: int = 16  # texts written at the same time; more of them wait
    cache: bool = True
    cache_dtype: Literal["auto", "fp32", "bf16", "int8"] = "auto"  # auto: what products run in
    prefix_bytes: int = 0  # for what ended texts have read, so that it is not read again
    fast: bool = True  # False: the model's own forward pass for every token
    native: bool | str = False  # the decode step in C; "auto": where a C compiler is found


class Engine:
    """Samples from a model. Puts it in eval mode; weights and device stay as they are.

    `forbidden` (V,) marks ids that must never be sampled, unless a request names them as stop ids. In bf16 the
    engine works on a bf16 copy of the weights as they are now.
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
        self.context = model.config.context_length
        self.device = model.device
        if forbidden is None:
            forbidden = torch.zeros(self.vocab_size, dtype=torch.bool)
        assert forbidden.shape == (self.vocab_size,)
        self.forbidden = forbidden.to(self.device)
        dtype = DTYPES[runtime.dtype]
        self.fast = options.fast and options.cache and is_plain(model)
        self.model = in_dtype(model, dtype) if self.fast and dtype != torch.float32 else model
        self.original = model.eval()
        self.dtype, self.weights = dtype, weights_of(self.model)
        kept = {"auto": dtype, "fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[options.cache_dtype]
        self.rows = Rows(model.config, options.streams, self.device, kept)
        self.compiled = self._compiled()  # None: ticks are made of torch's operators
        if self.fast and self.compiled is None:
            pack_all(self.model)
            self.weights = weights_of(self.model)
        self.prefixes = Prefixes(options.prefix_bytes)
        self.waiting: deque[ActiveRequest] = deque()
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
        strange = next((i for i in ids if not 0 <= i < self.vocab_size), None)
        if strange is not None or not asked.prompt:
            cause = "a prompt holds no ids" if strange is None else f"the model has no token {strange}"
            raise KiaraError(cause, f"give at least one id, each from 0 to {self.vocab_size - 1}")
        request = ActiveRequest(asked, self.forbidden)
        self.waiting.append(request)
        return request

    def follow(self, request: ActiveRequest) -> Iterator[Token]:
        """Yield the tokens of a request as they come, moving on all others as well; cancel it when left."""
        try:
            while request.events or not (request.finished or request.cancelled):
                if request.events:
                    yield request.events.popleft()  # outside of `step`: the caller must not inherit its modes
                else:
                    self.step()
        finally:
            if not request.finished:
                request.cancel()  # the next step lets it go

    @property
    def busy(self) -> bool:
        """Say whether a step would do anything."""
        return bool(self.waiting or self.rows.requests)

    @torch.inference_mode()
    def step(self) -> None:
        """Write one token of every text being written, and read at most PASS positions of those that begin.

        Raises KiaraError if the model's scores are not numbers; the request at fault is then gone.
        """
        if self.model.training:
            self.model.eval()
        for request in [*self.rows.requests, *self.waiting]:
            if request.cancelled:
                self._release(request)
        while self.waiting and not self.rows.full:
            self.rows.join(self.waiting.popleft())
        for request in self.rows.requests:
            request.slide(self.context)
        writing: list[ActiveRequest] = []
        reading: list[ActiveRequest] = []
        for request in self.rows.requests:
            (writing if self.fast and request.filled and request.unread == 1 else reading).append(request)
        self._write([request for request in writing if not (request.config.speculate and self._guess(request))])
        room = PASS
        for request in reading:
            room -= self._read(request, room)

    def _write(self, requests: list[ActiveRequest]) -> None:
        """Write the next token of each of the requests, in one tick."""
        if not requests:
            return
        logits = self._eager_tick(requests) if self.compiled is None else self._compiled_tick(requests)
        for request in requests:
            request.filled += 1
        self._choose(requests, logits)

    def _eager_tick(self, requests: list[ActiveRequest]) -> Tensor:
        """Return the scores (B, V) of B requests by torch's operators.

        Rows of requests that are still being read go along: what the tick leaves there is overwritten by the read.
        """
        rows = self.rows.requests
        token = torch.tensor([r.window[r.filled] for r in rows], device=self.device)  # (B,)
        position = torch.tensor([r.filled for r in rows], device=self.device)
        span = max(r.filled for r in rows) + 1
        visible = None
        if len(rows) > 1:
            visible = (torch.arange(span, device=self.device) <= position[:, None])[:, None, None]
        memory = self.rows.layers(len(rows))
        logits = tick(self.config, self.weights, self.dtype, token, position, span, memory, visible)
        return logits if len(requests) == len(rows) else logits[[rows.index(request) for request in requests]]

    def _compiled_tick(self, requests: list[ActiveRequest]) -> Tensor:
        """Return the same by compiled code."""
        assert self.compiled is not None
        self.compiled = self.compiled.on(self.rows.cache)
        rows = [self.rows.requests.index(request) for request in requests]
        return self.compiled([r.ids[r.start + r.filled] for r in requests], rows, [r.filled for r in requests])

    def _compiled(self) -> Compiled | None:
        """Return the compiled tick if it may be used and can be made. Raises KiaraError if it must be and cannot."""
        wanted, cache = self.options.native, self.rows.cache
        if wanted is False or not self.fast or not fits(self.weights, cache):
            return None
        try:
            library = load()
            made = Compiled(library, self.config, self.weights, cache, self.runtime.threads)
            if not self._agrees(made):
                raise CompilerError("the compiled tick computes other scores than torch")
        except CompilerError as error:
            if wanted is True:
                raise KiaraError(f"compiling failed ({error})", "install gcc, or set runtime.native=auto") from None
            return None
        return made

    @torch.inference_mode()
    def _agrees(self, made: Compiled) -> bool:
        """Compare a tick of this model with torch's, in a cache that holds nothing yet: compilers can be wrong."""
        first = torch.zeros(1, dtype=torch.int64, device=self.device)
        expected = tick(self.config, self.weights, self.dtype, first, first, 1, self.rows.layers(1))
        exact = self.dtype == torch.float32 and self.rows.cache.keys.dtype == torch.float32
        return bool((made([0], [0], [0]) - expected).abs().max() <= (1e-3 if exact else 0.1) * expected.abs().max())

    def _read(self, request: ActiveRequest, most: int) -> int:
        """Read at most `most` more positions of a request; after the last one, write its first token.

        Returns how many were read. Without the cache it is the whole window, for every token.
        """
        if self.options.cache and not request.filled:
            self.rows.reuse(request, self.prefixes)
        fresh = request.window[request.filled :]
        first, whole = request.filled == 0, True
        if self.options.cache:
            whole, fresh = len(fresh) <= most, fresh[:most]
        if not fresh:
            return 0
        logits = self._scores(request, fresh, 1)
        if self.options.cache:
            request.filled += len(fresh)
        if first and not bool(logits.isfinite().all()):  # not for every token: it waits for the device
            self._release(request)
            raise KiaraError(
                "the model's scores are not finite numbers",
                "its training has diverged: use an earlier checkpoint",
            )
        if whole:
            self._choose([request], logits)
        return len(fresh)

    def _guess(self, request: ActiveRequest) -> bool:
        """Write several tokens in one pass, if the text repeats itself and the request allows it: see `draft`."""
        left = request.config.max_new_tokens - request.written - 1
        room = self.context - len(request.window)
        guess = draft(request.ids, min(request.config.speculate, left, room))
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
        cache = self.rows.view(request) if self.options.cache else None
        spare = 0
        if cache is not None and self.dtype == torch.bfloat16:  # what comes later is not looked at, and overwritten
            spare = min(-len(fresh) % READ, cache.room - len(fresh))
        ids = torch.tensor([[*fresh, *[0] * spare]], device=self.device)  # (1, T)
        with self.runtime.precision() if self.model is self.original else contextlib.nullcontext():
            x = self.model.states(ids, cache)[0, len(fresh) - last : len(fresh)]  # (last, D): others need no scores
            logits: Tensor = self.model.head(x).float()
        return logits

    def _choose(self, requests: list[ActiveRequest], logits: Tensor) -> None:
        """Sample the next id of each request from its scores (B, V), and let those that end go."""
        scores = logits + self._biases(requests)
        for row, request in enumerate(requests):
            if request.penalizes:
                scores[row] = request.penalize(scores[row : row + 1])[0]
        ids = scores.argmax(dim=-1)
        ways: dict[GenerateConfig, list[int]] = {}
        for row, request in enumerate(requests):
            if request.config.temperature:
                ways.setdefault(request.sampling_params, []).append(row)
        for sampling_params, rows in ways.items():
            chances = torch.cat([requests[row].chance() for row in rows])
            ids[rows] = sample(scores[rows], sampling_params, chances)
        for row, (request, token) in enumerate(zip(requests, ids.tolist(), strict=True)):  # waits for the device
            request.take(token, None if request.asked.logprobs is None else logits[row])
            if request.finished:
                self._release(request)

    def _biases(self, requests: list[ActiveRequest]) -> Tensor:
        """Return what is added to the scores of each request, (B, V); kept from step to step."""
        if self._biased != requests:
            self._biased, self._bias = list(requests), torch.stack([request.bias for request in requests])
        return self._bias

    def _release(self, request: ActiveRequest) -> None:
        """Let a request go, wherever it is; what it has read may serve another."""
        if request in self.waiting:
            self.waiting.remove(request)
        elif request in self.rows.requests:
            self.prefixes.keep(request.window[: request.filled], self.rows, request)
            self.rows.leave(request)
