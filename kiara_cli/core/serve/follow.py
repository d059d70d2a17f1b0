"""From an order to what its client hears: all at once, or as it comes.

In: an order in the worker's hands. Out: its parts; leaving, from either side, cancels it at the next token.
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

from kiara_cli.core.serve.refusals import Refusal
from kiara_cli.core.serve.worker import Order, Part, Worker

DONE = "data: [DONE]\n\n"


async def collect(worker: Worker, request: Request, order: Order) -> list[Part]:
    """Wait until an order is done and return all of it. Raises Refusal if it cannot be, or if the client left."""
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        order.changed.set()

    watcher = asyncio.create_task(watch())
    parts: list[Part] = []
    try:
        over = False
        while not over:
            await order.changed.wait()
            new, over = order.take()
            parts += new
            if left:
                raise Refusal(499, "the client left")
    finally:
        watcher.cancel()
        worker.cancel(order)
    if order.failure is not None:
        raise order.failure
    return parts


async def follow(order: Order, interval: float) -> AsyncIterator[list[Part]]:
    """Yield an order's parts as they come, those of `interval` seconds together. Raises Refusal if it fails."""
    over = False
    while not over:
        await order.changed.wait()
        parts, over = order.take()
        if parts:
            yield parts
        if order.failure is not None:
            raise order.failure
        if not over and interval:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await order.ended.wait()


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
    """Events of an order; the order is cancelled when the response ends, however it ends."""

    def __init__(self, events: AsyncIterator[str], worker: Worker, order: Order) -> None:
        super().__init__(_guarded(events), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._worker, self._order = worker, order

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                await super().__call__(scope, receive, send)
        finally:
            self._worker.cancel(self._order)
