"""What stands before every route: who may ask, from where, for how long; and what every answer carries.

In: an ASGI request. Out: a refusal, or the app's answer with the headers that make a browser careful; a line in the
access log and a count for /metrics.

The attacks this is about come from a person's own browser: a web page that posts to a server on their machine (its
Origin is foreign), or that makes its own name point to 127.0.0.1 (the Host is a name that we do not know).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kiara_cli.config.schema import ServeConfig
from kiara_cli.core.serve import refusals
from kiara_cli.core.serve.admission import Caller
from kiara_cli.core.serve.metrics import Metrics
from kiara_cli.core.serve.origins import Hosts, Origins
from kiara_cli.core.serve.refusals import Refusal

log = logging.getLogger("kiara.serve")
access = logging.getLogger("kiara.access")

OPEN = {"/", "/health"}  # to be seen without a key: the page asks for it, a watchdog has none
METHODS = {"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
GRACE = 30.0  # seconds for reading a request and sending its answer, beside the time to write it


class AccessLog:
    """Adds headers to every answer, counts and logs it. HEAD is answered as GET, and uvicorn sends no body."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        address = scope["client"][0] if scope.get("client") else "unknown"
        caller = Caller(uuid.uuid4().hex, address, address)
        inner = {**scope, "kiara": caller, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
        began, status = time.perf_counter(), 499

        async def careful(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    added.setdefault(name, value)
                added["X-Request-Id"] = caller.id
            await send(message)

        try:
            await self.app(inner, receive, careful)
        finally:
            route = getattr(inner.get("route"), "path", "other")
            self._note(scope, route, caller, status, time.perf_counter() - began)

    def _note(self, scope: Scope, route: str, caller: Caller, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.http.labels(method, route, str(status)).inc()
        fields: dict[str, Any] = {
            "client": caller.address,
            "method": method,
            "path": scope["path"],
            "status": status,
            "milliseconds": round(1000 * seconds, 1),
            "prompt_tokens": caller.job.tokens_in if caller.job else 0,
            "completion_tokens": caller.job.tokens_out if caller.job else 0,
            "request": caller.id,
        }
        if caller.asked is not None:
            fields["prompt"] = caller.asked
        access.info(
            "%(client)s %(method)s %(path)r %(status)d %(milliseconds)g ms, "
            "%(prompt_tokens)d + %(completion_tokens)d tokens, %(request)s"
            + (" %(prompt)r" if "prompt" in fields else ""),
            fields,
            extra={"fields": fields},
        )


class CrossOrigin(CORSMiddleware):
    """Answers preflights, and lets pages of allowed origins read every answer, refusals included."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        super().__init__(
            app,
            allow_origins=["*"] if origins.everyone else [],
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],  # OpenAI's SDK sends a dozen of its own
            allow_private_network=True,
            expose_headers=["X-Request-Id", "Retry-After"],
        )
        self.origins = origins

    def is_allowed_origin(self, origin: str) -> bool:
        return origin in self.origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = Headers(scope=scope).get("origin") if scope["type"] == "http" else None
        if origin is None or origin not in self.origins:
            return await self.app(scope, receive, send)
        await super().__call__(scope, receive, send)


class Guard:
    """Refuses who may not ask. `keys` are the secrets that open the app; none: everyone may in."""

    def __init__(
        self, app: ASGIApp, limits: ServeConfig, keys: Sequence[str], hosts: Hosts, origins: Origins
    ) -> None:
        self.app, self.limits, self.hosts, self.origins = app, limits, hosts, origins
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            self._check(scope, Headers(scope=scope))
            async with asyncio.timeout(self.limits.max_seconds + GRACE):
                await self.app(scope, receive, watched)
        except TimeoutError:
            if not started:
                await Refusal(408, "the request took too long").response()(scope, receive, send)
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
        except Exception:
            log.exception("a fault while answering %s %s", scope["method"], scope["path"])
            if not started:
                await refusals.broken().response()(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raise Refusal for who may not ask."""
        host = headers.get("host")
        if host is not None and host not in self.hosts:  # a browser always sends one, a watchdog may not
            raise Refusal(
                421, f"this server is not {host[:100]!r}; serve.allowed_hosts names the hosts it answers to"
            )
        origin = headers.get("origin")
        if origin is not None and origin not in self.origins and origin.partition("://")[2] != host:
            raise Refusal(
                403,
                f"pages of {origin[:100]!r} may not ask this server; serve.allowed_origins lists those that may",
            )
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > self.limits.max_body_bytes:
            raise Refusal(413, "the body is too large")  # one that does not say so is stopped on its way
        if self.keys and scope["path"] not in OPEN and scope["method"] != "OPTIONS":
            scope["kiara"].client = f"key {self._key(headers.get('authorization', ''))}"

    def _key(self, header: str) -> int:
        """Return which key it is, comparing with all of them, each in constant time. Raises Refusal."""
        kind, _, given = header.partition(" ")
        if kind.lower() != "bearer" or not given.strip():
            raise Refusal(401, "this server needs an API key: Authorization: Bearer KEY", code="invalid_api_key")
        matches = [hmac.compare_digest(given.strip().encode(), key) for key in self.keys]
        if not any(matches):
            raise Refusal(401, "the API key is none of this server's", code="invalid_api_key")
        return matches.index(True)
