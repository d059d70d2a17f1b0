"""What a client has asked for, in progress: a `Job` of one or several generations, and the `Chunk`s that come of it.

In: generation requests. Out: chunks of text and tokens, which the engine's thread adds and the event loop takes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kiara_cli.core.generate.engine import Engine, GenerationRequest, Token
from kiara_cli.core.generate.request import ActiveRequest
from kiara_cli.core.generate.text import Completion, Writing
from kiara_cli.core.serve.refusals import Refusal
from kiara_cli.core.serve.served import Served
from kiara_cli.core.tokenizer.protocol import incremental_decoder

# a request that ended at its length, all ids sampled → what to ask for next, if anything
Following = Callable[[GenerationRequest, Sequence[int]], GenerationRequest | None]


@dataclass(frozen=True)
class Chunk:
    """Some more of one of a job's generations; `tokens` are there if their probabilities were asked for."""

    index: int
    text: str
    tokens: tuple[Token, ...]
    done: Completion | None


class Job:
    """One client's generations, to be run side by side. Made in the event loop that reads its chunks."""

    def __init__(
        self,
        served: Served,
        requests: Sequence[GenerationRequest],
        client: str,
        seconds: float,
        streamed: bool,
        following: Following | None = None,
        show_end: bool = False,
    ) -> None:
        self.served, self.client, self.streamed = served, client, streamed
        self.following = following
        self.show_end = show_end  # the token that ends a text is among those whose probabilities are shown
        self.began = time.monotonic()
        self.deadline = self.began + seconds
        self.loop = asyncio.get_running_loop()
        self.changed, self.ended = asyncio.Event(), asyncio.Event()
        self.chunks: deque[Chunk] = deque()
        self.generations = [Generation(self, index, request) for index, request in enumerate(requests)]
        self.open = len(self.generations)
        self.failure: Refusal | None = None
        self.cancelled = False
        self.notified = False  # the loop has been woken and has not looked yet
        self.tokens_out = 0

    @property
    def tokens_in(self) -> int:
        return sum(len(generation.asked.prompt) for generation in self.generations)

    @property
    def over(self) -> bool:
        return not self.open or self.failure is not None

    def take(self) -> tuple[list[Chunk], bool]:
        """Return what has come since the last time, and whether that is all there will be. For the event loop."""
        self.changed.clear()
        self.notified = False  # before looking: what comes from now on wakes the loop again
        chunks, over = [], self.over
        while self.chunks:
            chunks.append(self.chunks.popleft())
        return chunks, over


class Generation:
    """One text of a job: waiting, then active in the engine."""

    def __init__(self, job: Job, index: int, asked: GenerationRequest) -> None:
        self.job, self.index, self.asked = job, index, asked
        self.active: ActiveRequest | None = None
        self.last = 0.0  # when the last token came
        self.writing = self._writing()
        self._sampled: list[int] = []
        self._held: deque[tuple[int, Token]] = deque()  # where a token's text begins, and the token
        self._decoder = incremental_decoder()
        self._read = self._shown = 0  # characters

    @property
    def engine(self) -> Engine:
        return self.job.served.engine

    def cancel(self) -> None:
        """Ask the engine for no more tokens."""
        if self.active is not None:
            self.active.cancel()

    def begin(self) -> None:
        """Hand the request to the engine. Raises KiaraError for ids that the model does not have."""
        self.active = self.engine.submit(self.asked)
        self.writing = self._writing()  # its clock starts now

    def take(self) -> tuple[list[Token], str]:
        """Return the tokens that have come, and the text that has become certain with them.

        Raises KiaraError where the engine has ended the request with an error.
        """
        assert self.active is not None
        tokens, text = [], ""
        while self.active.events and self.writing.done is None:
            token = self.active.events.popleft()
            if token.error is not None:
                raise token.error
            self._sampled.append(token.id)
            if token.finish_reason == "length" and self.job.following is not None:
                token = self._go_on(token)
            text += self.writing.push(token)
            tokens.append(token)
        return tokens, text

    def _go_on(self, token: Token) -> Token:
        """Ask the engine for what follows a request that ended at its length; return its last token, not the end."""
        assert self.job.following is not None
        following = self.job.following(self.asked, self._sampled)
        if following is None:
            return token
        self.active = self.engine.submit(following)
        return dataclasses.replace(token, finish_reason=None)

    def certain(self, tokens: Sequence[Token], written: str) -> tuple[Token, ...]:
        """Return the tokens whose text may be shown, if probabilities are wanted: none of a stop string's."""
        if self.asked.logprobs is None:
            return ()
        for token in tokens:
            if token.id not in self.asked.stop_ids:
                self._held.append((self._read, token))
                self._read += len(self._decoder.decode(self.job.served.tokenizer.token_bytes(token.id)))
        self._shown += len(written)
        out = []
        while self._held and self._held[0][0] < self._shown:
            out.append(self._held.popleft()[1])
        if self.job.show_end:
            out += [token for token in tokens if token.id in self.asked.stop_ids]
        return tuple(out)

    def _writing(self) -> Writing:
        served, asked = self.job.served, self.asked
        return Writing(served.engine, served.tokenizer, asked.prompt, asked.config, asked.stop_ids)
