"""The app: routes, what stands before them, and one shape for every refusal.

In: a worker and limits. Out: an ASGI app. From the outside in: access log and headers, cross-origin answers, the
guard, the limit of a body's size, the routes.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from kiara_cli.config.schema import ServeConfig
from kiara_cli.core.serve import kiara, openai, shapes
from kiara_cli.core.serve.admission import Admission
from kiara_cli.core.serve.middleware import AccessLog, CrossOrigin, Guard
from kiara_cli.core.serve.origins import Hosts, Origins
from kiara_cli.core.serve.refusals import Refusal, broken
from kiara_cli.core.serve.validation import explain
from kiara_cli.core.serve.worker import Worker

STATUSES = {
    400: "what was asked for makes no sense, or cannot be done",
    401: "no valid API key",
    403: "a page of another site asked",
    404: "there is no such model, or nothing here",
    408: "it took too long to arrive",
    413: "the body is too large",
    421: "the Host is not one of this server's names",
    500: "a fault of the server",
    503: "too many requests are waiting; Retry-After says when to come again",
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    **{status: {"model": shapes.Error, "description": about} for status, about in STATUSES.items()},
    "4XX": {"model": shapes.Error, "description": "any other mistake of the client"},
}
Lifespan = Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]


def make_app(worker: Worker, limits: ServeConfig, keys: Sequence[str], reloading: Callable[[], Any]) -> ASGIApp:
    """Return the whole app; `reloading` is a context around its life. Raises KiaraError for hosts and origins."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with reloading():
            yield

    app = FastAPI(
        title="Kiara", summary="A small language model of your own, as OpenAI's clients know it.",
        docs_url=None, redoc_url=None, lifespan=lifespan, responses=REFUSALS,
    )  # fmt: skip
    app.state.admission = Admission(worker, limits)
    app.include_router(kiara.router)
    app.include_router(openai.router)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _refused_by_starlette)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=limits.max_body_bytes)
    hosts, origins = Hosts(limits.allowed_hosts), Origins(limits.allowed_origins)
    guard = Guard(app, limits, keys, hosts, origins)
    return AccessLog(CrossOrigin(guard, origins), worker.metrics)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return error.response()


async def _refused_by_starlette(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "")
    what = {
        404: nothing_at(request.url.path),
        405: f"{request.url.path[:100]} takes {allowed or 'other methods'}, not {request.method[:20]}",
        413: "the body is too large",
    }.get(error.status_code)
    answer = Refusal(error.status_code, what or str(error.detail)).response()
    answer.headers.update(error.headers or {})
    return answer


def nothing_at(path: str) -> str:
    """Say what is wrong with an address that is nearly right: /v1 missing, or twice, or slashes too many."""
    parts = [part for part in path.split("/") if part]
    rest = "/".join(part for part in parts if part != "v1")
    where = f"there is nothing at {path[:100]!r}"
    if rest not in ("chat/completions", "completions", "embeddings") and rest.partition("/")[0] != "models":
        return f"{where}; OpenAI's API is at /v1/chat/completions, /v1/completions, /v1/embeddings and /v1/models"
    if "v1" not in parts:
        return f"{where}: /v1 is missing; the base URL of an OpenAI client ends in /v1"
    if parts.count("v1") > 1:
        return f"{where}: /v1 is there twice; the base URL of an OpenAI client ends in one /v1"
    return f"{where}; did you mean /v1/{rest[:100]}?"


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return explain(error).response()


async def _broken(request: Request, error: Exception) -> JSONResponse:
    return broken().response()
