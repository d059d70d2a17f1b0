"""What stands before every route: who may ask, from where, for how long; and what every answer carries.

In: an ASGI request. Out: a refusal, or the app's answer with the headers that make a browser careful; a line in the
access log and a count for /metrics.

The attacks this is about come from a person's own browser: a web page that posts to a server on their machine (its
Origin is foreign), or that makes its own name point to 127.0.0.1 (the Host is a name that we do not know).
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kiara_cli.config.schema import ServeConfig
from kiara_cli.core.serve import refusals
from kiara_cli.core.serve.admission import Caller
from kiara_cli.core.serve.metrics import Metrics
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


@dataclass
class Answer:
    """What was sent so far."""

    status: int = 0


class Guard:
    """Wraps the app. `keys` are the secrets that open it; none: everyone may in."""

    def __init__(self, app: ASGIApp, limits: ServeConfig, keys: Sequence[str], metrics: Metrics) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        address = scope["client"][0] if scope.get("client") else "unknown"
        caller = scope["kiara"] = Caller(uuid.uuid4().hex, address, address)
        began, answer = time.perf_counter(), Answer()

        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                added = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    added.setdefault(name, value)
                added["X-Request-Id"] = caller.id
            await send(message)

        try:
            self._check(scope, headers, caller)
            async with asyncio.timeout(self.limits.max_seconds + GRACE):
                await self.app(scope, receive, careful)
        except TimeoutError:
            if not answer.status:
                await Refusal(408, "the request took too long").response()(scope, receive, careful)
        except Refusal as refusal:
            await refusal.response()(scope, receive, careful)
        except Exception:
            log.exception("a fault while answering %s %s", scope["method"], scope["path"])
            if not answer.status:
                await refusals.broken().response()(scope, receive, careful)
        finally:
            self._note(scope, caller, answer.status, time.perf_counter() - began)

    def _check(self, scope: Scope, headers: Headers, caller: Caller) -> None:
        """Refuse who may not ask. A preflight carries no key: CORS answers it."""
        host = headers.get("host", "")
        if not self._knows(host):
            raise Refusal(
                421, f"this server is not {host[:100]!r}; serve.allowed_hosts names the hosts it answers to"
            )
        origin = headers.get("origin")
        if origin is not None and origin not in self.limits.allowed_origins and urlsplit(origin).netloc != host:
            raise Refusal(
                403, "pages of other sites may not ask this server; serve.allowed_origins lists those that may"
            )
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > self.limits.max_body_bytes:
            raise Refusal(413, "the body is too large")  # one that does not say so is stopped on its way
        if self.keys and scope["path"] not in OPEN and scope["method"] != "OPTIONS":
            kind, _, given = headers.get("authorization", "").partition(" ")
            number = self._key(given.strip()) if kind.lower() == "bearer" else None
            if number is None:
                raise Refusal(401, "a valid API key is needed: Authorization: Bearer KEY", code="invalid_api_key")
            caller.client = f"key {number}"

    def _knows(self, host: str) -> bool:
        """Say whether a Host is ours: an address, localhost, or a name from the config."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost" or name in self.limits.allowed_hosts
        return True  # a foreign page can only reach us by a name of its own

    def _key(self, given: str) -> int | None:
        """Return which key it is, comparing with all of them, each in constant time."""
        matches = [hmac.compare_digest(given.encode(), key) for key in self.keys]
        return matches.index(True) if any(matches) else None

    def _note(self, scope: Scope, caller: Caller, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.http.labels(method, route, str(status or 499)).inc()
        fields: dict[str, Any] = {
            "client": caller.address,
            "method": method,
            "path": scope["path"],
            "status": status or 499,
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
