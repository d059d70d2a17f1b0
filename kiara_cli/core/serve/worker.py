"""The one thread that runs the engine. The event loop hands in orders and hears of what came of them.

In: `Order`s, from any number of requests at once. Out: `Part`s of their texts, woken for as they come; an order whose
client leaves, whose time is over or that cannot be served ends at the next token.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from kiara_cli.core.generate.engine import Engine, GenerationRequest, Token
from kiara_cli.core.generate.request import ActiveRequest
from kiara_cli.core.generate.scheduler import size
from kiara_cli.core.generate.text import Completion, Writing
from kiara_cli.core.serve import refusals
from kiara_cli.core.serve.fair import FairQueue
from kiara_cli.core.serve.metrics import Metrics
from kiara_cli.core.serve.refusals import Refusal
from kiara_cli.core.serve.served import Served
from kiara_cli.core.tokenizer.protocol import incremental_decoder
from kiara_cli.errors import KiaraError

T = TypeVar("T")
log = logging.getLogger("kiara.serve")


@dataclass(frozen=True)
class Part:
    """Some more of one of an order's texts; `tokens` are there if their probabilities were asked for."""

    text_index: int
    text: str
    tokens: tuple[Token, ...]
    done: Completion | None


class Order:
    """One client's generations, to be written side by side. Made in the event loop that will follow it."""

    def __init__(
        self, served: Served, generations: Sequence[GenerationRequest], client: str, seconds: float, streamed: bool
    ) -> None:
        self.served, self.client, self.streamed = served, client, streamed
        self.began = time.monotonic()
        self.deadline = self.began + seconds
        self.loop = asyncio.get_running_loop()
        self.changed, self.ended = asyncio.Event(), asyncio.Event()
        self.parts: deque[Part] = deque()
        self.texts = [Text(self, index, generation) for index, generation in enumerate(generations)]
        self.open = len(self.texts)
        self.failure: Refusal | None = None
        self.cancelled = False
        self.told = False  # the loop will come and look
        self.tokens_out = 0

    @property
    def tokens_in(self) -> int:
        return sum(len(text.generation.prompt) for text in self.texts)

    @property
    def over(self) -> bool:
        return not self.open or self.failure is not None

    def take(self) -> tuple[list[Part], bool]:
        """Return what has come since the last time, and whether that is all there will be. For the event loop."""
        self.changed.clear()
        self.told = False  # before looking: what comes from now on is told again
        parts, over = [], self.over
        while self.parts:
            parts.append(self.parts.popleft())
        return parts, over


class Text:
    """One text of an order: waiting, then being written by a request of the engine."""

    def __init__(self, order: Order, index: int, generation: GenerationRequest) -> None:
        self.order, self.index, self.generation = order, index, generation
        self.request: ActiveRequest | None = None
        self.last = 0.0  # when the last token came
        self.writing = self._writing()
        self._held: deque[tuple[int, Token]] = deque()  # where a token's text begins, and the token
        self._decoder = incremental_decoder()
        self._read = self._shown = 0  # characters

    def begin(self) -> None:
        """Hand the generation to the engine. Raises KiaraError for ids that the model does not have."""
        self.request = self.order.served.engine.submit(self.generation)
        self.writing = self._writing()  # its clock starts now

    def certain(self, tokens: Sequence[Token], written: str) -> tuple[Token, ...]:
        """Return the tokens whose text may be shown, if probabilities are wanted: none of a stop string's."""
        if self.generation.logprobs is None:
            return ()
        for token in tokens:
            if token.id not in self.generation.stop_ids:
                self._held.append((self._read, token))
                self._read += len(self._decoder.decode(self.order.served.tokenizer.token_bytes(token.id)))
        self._shown += len(written)
        out = []
        while self._held and self._held[0][0] < self._shown:
            out.append(self._held.popleft()[1])
        return tuple(out)

    def _writing(self) -> Writing:
        generation = self.generation
        served = self.order.served
        return Writing(
            served.engine, served.tokenizer, len(generation.prompt), generation.config, generation.stop_ids
        )


class Worker:
    """Owns the engine's thread. All public methods may be called from the event loop; none of them waits."""

    def __init__(self, served: Served, queue: int, streams: int) -> None:
        self.served, self.limit, self.streams = served, queue, streams
        self.metrics = Metrics(lambda: len(self._running), lambda: len(self._queue), self._cache_bytes)
        self._queue: FairQueue[Text] = FairQueue()
        self._running: list[Text] = []
        self._engines: list[Engine] = []  # with anything left to do
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._wake = threading.Condition()
        self._stopping = self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def ready(self) -> bool:
        return self.alive and not self._closed

    def start(self) -> None:
        self._thread.start()

    def submit(self, order: Order) -> None:
        """Queue an order. Raises Refusal if there is no room for all of it.

        Texts that can begin at once need no place in the queue.
        """
        with self._wake:
            room = self.limit + max(0, self.streams - len(self._running))
            if self._closed:
                raise refusals.stopping()
            if len(self._queue) + len(order.texts) > room:
                self.metrics.refused.inc()
                raise refusals.too_busy(len(self._queue))
            for text in order.texts:
                self._queue.push(order.client, text)
            self._wake.notify()

    def cancel(self, order: Order) -> None:
        """Let an order go at the next token."""
        if not order.over and not order.cancelled:
            order.cancelled = True
            with self._wake:
                self._wake.notify()

    def call(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Run a function in the engine's thread, between two tokens. Raises Refusal if too many wait."""
        future: Future[T] = Future()
        with self._wake:
            if self._closed:
                raise refusals.stopping()
            if len(self._calls) > self.limit:
                self.metrics.refused.inc()
                raise refusals.too_busy(len(self._calls))
            self._calls.append((function, future))
            self._wake.notify()
        return asyncio.wrap_future(future)

    def swap(self, served: Served) -> None:
        """Serve another model from now on; orders that exist end with the one they began with."""
        self.served = served

    def close(self) -> None:
        """Take no more orders."""
        self._closed = True

    def abandon(self) -> None:
        """End all orders now, with an error."""
        with self._wake:
            for text in (*self._queue, *self._running):
                self._fail(text.order, refusals.stopping())
            for _, future in self._calls:
                if future.set_running_or_notify_cancel():
                    future.set_exception(refusals.stopping())
            self._calls.clear()
            self._wake.notify()

    def stop(self) -> None:
        """End the thread; orders that are left end with an error."""
        self.close()
        self.abandon()
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self.alive:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._queue or self._engines or self._calls or self._stopping):
                    self._wake.wait()
                if self._stopping:
                    return
            try:
                self._turn()
            except Exception:
                log.exception("a fault of the server; all orders are given up")
                for text in (*self._queue, *self._running):
                    self._fail(text.order, refusals.broken())

    def _turn(self) -> None:
        """Do all there is to do once: one token for every text, at most one call."""
        with self._wake:
            self._sort_out()
            self._admit()
            call = self._calls.popleft() if self._calls else None
        if call is not None:
            self._answer(*call)
        for engine in list(self._engines):
            self._step(engine)
        self._tell(self._collect())

    def _sort_out(self) -> None:
        """Let go of texts whose client has left, whose order has failed or whose time is over."""
        now = time.monotonic()

        def unwanted(text: Text) -> bool:
            order = text.order
            return order.cancelled or order.failure is not None or now > order.deadline

        for text in self._queue.remove(unwanted):
            if text.order.cancelled:
                self.metrics.cancelled.inc()
            else:
                self._fail(text.order, Refusal(503, "the request waited too long for its turn", code="timeout"))
        for text in [text for text in self._running if unwanted(text)]:
            assert text.request is not None
            text.request.cancel()
            self._running.remove(text)
            if text.order.cancelled:
                self.metrics.cancelled.inc()
            elif text.order.failure is None:
                rest = text.writing.end("length")
                self._put(text, rest, text.certain((), rest))
                self._tell([text.order])

    def _admit(self) -> None:
        """Hand waiting texts to the engine while it has room."""
        while len(self._queue) and len(self._running) < self.streams:
            text = self._queue.pop(Counter(text.order.client for text in self._running))
            engine = text.order.served.engine
            try:
                text.begin()
            except KiaraError as error:
                self._fail(text.order, Refusal(400, str(error)))
                continue
            self._running.append(text)
            self.metrics.tokens_in.inc(len(text.generation.prompt))
            if engine not in self._engines:
                self._engines.append(engine)

    def _answer(self, function: Callable[[], Any], future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            future.set_exception(error)

    def _step(self, engine: Engine) -> None:
        """Move an engine on by a token. A fault ends the texts at fault, never the thread."""
        try:
            engine.step()
        except KiaraError as error:  # the engine has let one request go
            held = [*engine.rows.requests, *engine.waiting]
            self._give_up(engine, Refusal(500, str(error)), lambda request: request not in held)
        except Exception:
            log.exception("a step of the engine failed; the texts being written are lost")
            self._give_up(engine, refusals.broken(), lambda request: True)
        if not engine.busy:
            self._engines.remove(engine)

    def _give_up(self, engine: Engine, why: Refusal, which: Callable[[ActiveRequest], bool]) -> None:
        for text in list(self._running):
            request = text.request
            ours = text.order.served.engine is engine
            if ours and request is not None and not request.finished and which(request):
                request.cancel()
                self._running.remove(text)
                self._fail(text.order, why)

    def _collect(self) -> list[Order]:
        """Take what the engine has written; return the orders that should hear of it."""
        now, heard = time.monotonic(), []
        for text in list(self._running):
            assert text.request is not None
            events, written, tokens = text.request.events, "", []
            while events and text.writing.done is None:
                token = events.popleft()
                written += text.writing.push(token)
                tokens.append(token)
            if not tokens:
                continue
            self._measure(text, len(tokens), now)
            if text.writing.done is not None:
                text.request.cancel()
                self._running.remove(text)
            if self._put(text, written, text.certain(tokens, written)):
                heard.append(text.order)
        return heard

    def _put(self, text: Text, written: str, tokens: tuple[Token, ...]) -> bool:
        """Add to what an order has; say whether its client should hear of it now."""
        order, done = text.order, text.writing.done
        if done is not None:
            self.metrics.ended.labels(done.finish_reason).inc()
            self.metrics.whole.observe(time.monotonic() - order.began)
        if written or tokens or done is not None:
            order.parts.append(Part(text.index, written, tokens, done))
        if done is not None:
            order.open -= 1  # after the part is there: an order that is over has all of its parts
        return bool(order.parts) and (order.streamed or not order.open)

    def _measure(self, text: Text, tokens: int, now: float) -> None:
        if not text.last:
            self.metrics.first_token.observe(now - text.order.began)
        else:
            self.metrics.between.observe((now - text.last) / tokens)
        text.last = now
        text.order.tokens_out += tokens
        self.metrics.tokens_out.inc(tokens)

    def _fail(self, order: Order, why: Refusal) -> None:
        if not order.over:
            order.failure = why
            self._tell([order])

    def _tell(self, orders: Sequence[Order]) -> None:
        """Wake whoever follows these orders, all in one call into their loop."""
        untold = [order for order in orders if not order.told or order.over]
        for order in untold:
            order.told = True
        for loop in {order.loop for order in untold}:
            theirs = [order for order in untold if order.loop is loop]
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake, theirs)

    def _cache_bytes(self) -> int:
        engines = {self.served.engine, *self._engines}
        return sum(size(engine.rows.cache.parts) + engine.prefixes.bytes for engine in engines)


def _wake(orders: Sequence[Order]) -> None:
    """Wake whoever follows these orders. For the event loop."""
    for order in orders:
        order.changed.set()
        if order.over:
            order.ended.set()
