"""The one thread that runs the engine: a queue of jobs on one side, chunks of their texts on the other.

In: `Job`s, from any number of HTTP requests at once. Out: their `Chunk`s; the event loop is woken when there are any.
A job whose client leaves, whose time is over or that cannot be served ends at the next token.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from kiara_cli.core.generate.engine import Engine, Token
from kiara_cli.core.serve import refusals
from kiara_cli.core.serve.fair_queue import FairQueue
from kiara_cli.core.serve.jobs import Chunk, Generation, Job
from kiara_cli.core.serve.metrics import Metrics
from kiara_cli.core.serve.refusals import Refusal
from kiara_cli.core.serve.served import Served
from kiara_cli.errors import KiaraError

T = TypeVar("T")
log = logging.getLogger("kiara.serve")


class Worker:
    """Owns the engine's thread. All public methods may be called from the event loop; none of them waits."""

    def __init__(self, served: Served, queue: int, streams: int) -> None:
        self.served, self.limit, self.streams = served, queue, streams
        self.metrics = Metrics(lambda: len(self._running), lambda: len(self._queue), self._cache_bytes)
        self._queue: FairQueue[Generation] = FairQueue()
        self._running: list[Generation] = []
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

    def submit(self, job: Job) -> None:
        """Queue a job. Raises Refusal if there is no room for all of it.

        Generations that can begin at once need no place in the queue.
        """
        with self._wake:
            room = self.limit + max(0, self.streams - len(self._running))
            if self._closed:
                raise refusals.stopping()
            if len(self._queue) + len(job.generations) > room:
                self.metrics.refused.inc()
                raise refusals.too_busy(len(self._queue))
            for generation in job.generations:
                self._queue.push(job.client, generation)
            self._wake.notify()

    def cancel(self, job: Job) -> None:
        """End a job at the next token."""
        if not job.over and not job.cancelled:
            job.cancelled = True
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
        """Serve another model from now on; jobs that exist end with the one they began with."""
        self.served = served

    def close(self) -> None:
        """Take no more jobs."""
        self._closed = True

    def abandon(self) -> None:
        """End all jobs now, with an error."""
        with self._wake:
            for generation in (*self._queue, *self._running):
                self._fail(generation.job, refusals.stopping())
            for _, future in self._calls:
                if future.set_running_or_notify_cancel():
                    future.set_exception(refusals.stopping())
            self._calls.clear()
            self._wake.notify()

    def stop(self) -> None:
        """End the thread; jobs that are left end with an error."""
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
                self._advance()
            except Exception:
                log.exception("a fault of the server; all jobs are given up")
                for generation in (*self._queue, *self._running):
                    self._fail(generation.job, refusals.broken())

    def _advance(self) -> None:
        """Do all there is to do once: one token for every generation, at most one call."""
        with self._wake:
            self._drop_unwanted()
            self._begin()
            call = self._calls.popleft() if self._calls else None
        if call is not None:
            self._run_call(*call)
        for engine in list(self._engines):
            self._step(engine)
        self._notify(self._collect())

    def _drop_unwanted(self) -> None:
        """End generations whose client has left, whose job has failed or whose time is over."""
        now = time.monotonic()

        def unwanted(generation: Generation) -> bool:
            job = generation.job
            return job.cancelled or job.failure is not None or now > job.deadline

        for generation in self._queue.remove(unwanted):
            if generation.job.cancelled:
                self.metrics.cancelled.inc()
            else:
                self._fail(generation.job, Refusal(503, "the request waited too long in the queue", code="timeout"))
        for generation in [generation for generation in self._running if unwanted(generation)]:
            generation.cancel()
            self._running.remove(generation)
            if generation.job.cancelled:
                self.metrics.cancelled.inc()
            elif generation.job.failure is None:
                rest = generation.writing.end("length")
                self._put(generation, rest, generation.certain((), rest))
                self._notify([generation.job])

    def _begin(self) -> None:
        """Hand waiting generations to the engine while it has room."""
        while len(self._queue) and len(self._running) < self.streams:
            generation = self._queue.pop(Counter(generation.job.client for generation in self._running))
            engine = generation.engine
            try:
                generation.begin()
            except KiaraError as error:
                self._fail(generation.job, Refusal(400, str(error)))
                continue
            self._running.append(generation)
            self.metrics.tokens_in.inc(len(generation.asked.prompt))
            if engine not in self._engines:
                self._engines.append(engine)

    def _run_call(self, function: Callable[[], Any], future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except KiaraError as error:  # the model's fault, not the server's
            future.set_exception(Refusal(500, str(error)))
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            future.set_exception(error)

    def _step(self, engine: Engine) -> None:
        """Move an engine on by a token. A fault ends its generations, never the thread."""
        try:
            engine.step()
        except Exception:
            log.exception("a step of the engine failed; the generations in progress are lost")
            self._give_up(engine)
        if not engine.busy:
            self._engines.remove(engine)

    def _give_up(self, engine: Engine) -> None:
        for generation in list(self._running):
            request = generation.active
            if generation.engine is engine and request is not None and not request.finished:
                request.cancel()
                self._running.remove(generation)
                self._fail(generation.job, refusals.broken())

    def _collect(self) -> list[Job]:
        """Take what the engine has written; return the jobs whose readers should be woken."""
        now, changed = time.monotonic(), []
        for generation in list(self._running):
            try:
                tokens, written = generation.take()
            except KiaraError as error:  # of this request alone
                self._running.remove(generation)
                self._fail(generation.job, Refusal(500, str(error)))
                continue
            if not tokens:
                continue
            self._measure(generation, len(tokens), now)
            if generation.writing.done is not None:
                generation.cancel()
                self._running.remove(generation)
            elif generation.engine.busy and generation.engine not in self._engines:
                self._engines.append(generation.engine)  # what follows was asked of it after its last step
            if self._put(generation, written, generation.certain(tokens, written)):
                changed.append(generation.job)
        return changed

    def _put(self, generation: Generation, written: str, tokens: tuple[Token, ...]) -> bool:
        """Add to a job's chunks; say whether its reader should be woken now."""
        job, done = generation.job, generation.writing.done
        if done is not None:
            self.metrics.ended.labels(done.finish_reason).inc()
            self.metrics.whole.observe(time.monotonic() - job.began)
        if written or tokens or done is not None:
            job.chunks.append(Chunk(generation.index, written, tokens, done))
        if done is not None:
            job.open -= 1  # after the chunk is there: a job that is over has all of its chunks
        return bool(job.chunks) and (job.streamed or not job.open)

    def _measure(self, generation: Generation, tokens: int, now: float) -> None:
        if not generation.last:
            self.metrics.first_token.observe(now - generation.job.began)
        else:
            self.metrics.between.observe((now - generation.last) / tokens)
        generation.last = now
        generation.job.tokens_out += tokens
        self.metrics.tokens_out.inc(tokens)

    def _fail(self, job: Job, why: Refusal) -> None:
        if not job.over:
            job.failure = why
            self._notify([job])

    def _notify(self, jobs: Sequence[Job]) -> None:
        """Wake the readers of these jobs, all in one call into their loop."""
        waiting = [job for job in jobs if not job.notified or job.over]
        for job in waiting:
            job.notified = True
        for loop in {job.loop for job in waiting}:
            theirs = [job for job in waiting if job.loop is loop]
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake, theirs)

    def _cache_bytes(self) -> int:
        engines = {self.served.engine, *self._engines}
        return sum(engine.slots.cache.bytes + engine.prefixes.bytes for engine in engines)


def _wake(jobs: Sequence[Job]) -> None:
    """Wake the readers of these jobs. For the event loop."""
    for job in jobs:
        job.changed.set()
        if job.over:
            job.ended.set()
