"""From a job to its client: all at once, or as it comes.

In: a job that the worker has accepted. Out: its chunks; a client that leaves, or a response that ends, cancels it at
the next token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.sse import EventSourceResponse
from starlette.types import Receive, Scope, Send

from kiara_cli.core.serve.jobs import Chunk, Job
from kiara_cli.core.serve.refusals import Refusal
from kiara_cli.core.serve.worker import Worker

T = TypeVar("T")
DONE = "data: [DONE]\n\n"


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await work, but only as long as the client waits for it. Raises Refusal if it leaves."""

    async def leaving() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watcher = asyncio.create_task(work), asyncio.create_task(leaving())
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(499, "the client left")
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()


async def collect(worker: Worker, request: Request, job: Job) -> list[Chunk]:
    """Wait until a job is done and return all of it. Raises Refusal if it cannot be, or if the client left."""

    async def rest() -> list[Chunk]:
        return [chunk async for some in chunks_of(job, 0) for chunk in some]

    try:
        return await while_connected(request, rest())
    finally:
        worker.cancel(job)


async def at_once(chunks: list[Chunk]) -> AsyncIterator[list[Chunk]]:
    """Yield chunks that are all there."""
    yield chunks


async def chunks_of(job: Job, interval: float) -> AsyncIterator[list[Chunk]]:
    """Yield a job's chunks as they come, those of `interval` seconds together. Raises Refusal if it fails."""
    over = False
    while not over:
        await job.changed.wait()
        chunks, over = job.take()
        if chunks:
            yield chunks
        if job.failure is not None:
            raise job.failure
        if not over and interval:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await job.ended.wait()


def event(data: dict[str, Any]) -> str:
    """Write one server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _guarded(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """End a stream that fails with an event that says so: its status has long been sent."""
    try:
        async for text in events:
            yield text
    except Refusal as refusal:
        yield event(refusal.body())
        yield DONE


class Stream(EventSourceResponse):
    """Server-sent events; `close` is called when the response ends, however it ends."""

    def __init__(self, events: AsyncIterator[str], close: Callable[[], None] = lambda: None) -> None:
        super().__init__(_guarded(events), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                await super().__call__(scope, receive, send)
        finally:
            self._close()
