"""What a client did wrong, or the server cannot do now, in OpenAI's words.

In: a refusal. Out: a status and `{"error": {"message", "type", "param", "code"}}`, which OpenAI's clients turn into
their own exceptions.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    499: "client_closed_request",
    500: "server_error",
    503: "overloaded_error",
}
RETRY_SECONDS = 1


class Refusal(Exception):
    """A request that gets no answer but this one."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """Return what is sent as JSON."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the answer to send."""
        headers = {}
        if self.status == 503:
            headers["Retry-After"] = str(RETRY_SECONDS)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def too_busy(waiting: int) -> Refusal:
    """Refuse for now: the queue is full."""
    return Refusal(503, f"{waiting} requests are waiting already; try again in a moment", code="queue_full")


def stopping() -> Refusal:
    """Refuse because the server is about to end."""
    return Refusal(503, "the server is stopping", code="stopping")


def broken() -> Refusal:
    """Admit a fault of ours; what it was stands in the log."""
    return Refusal(500, "something went wrong in the server; its log says what", code="internal_error")
