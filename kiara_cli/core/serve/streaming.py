"""From a job to its client: all at once, or as it comes.

In: a job that the worker has accepted. Out: its chunks; a client that leaves, or a response that ends, cancels it at
the next token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.sse import EventSourceResponse
from starlette.types import Receive, Scope, Send

from kiara_cli.core.serve.jobs import Chunk, Job
from kiara_cli.core.serve.refusals import Refusal
from kiara_cli.core.serve.worker import Worker

DONE = "data: [DONE]\n\n"


async def collect(worker: Worker, request: Request, job: Job) -> list[Chunk]:
    """Wait until a job is done and return all of it. Raises Refusal if it cannot be, or if the client left."""
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        job.changed.set()

    watcher = asyncio.create_task(watch())
    chunks: list[Chunk] = []
    try:
        over = False
        while not over:
            await job.changed.wait()
            new, over = job.take()
            chunks += new
            if left:
                raise Refusal(499, "the client left")
    finally:
        watcher.cancel()
        worker.cancel(job)
    if job.failure is not None:
        raise job.failure
    return chunks


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
    """Events of a job; the job is cancelled when the response ends, however it ends."""

    def __init__(self, events: AsyncIterator[str], worker: Worker, job: Job) -> None:
        super().__init__(_guarded(events), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._worker, self._job = worker, job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                await super().__call__(scope, receive, send)
        finally:
            self._worker.cancel(self._job)
