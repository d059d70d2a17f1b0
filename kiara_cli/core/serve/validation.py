"""From a request's body to a checked object, or to a refusal in the words of whoever wrote the client.

In: bytes; what pydantic found wrong. Out: the JSON object; a refusal that names a field as it was sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from kiara_cli.core.serve.bodies import HALF
from kiara_cli.core.serve.refusals import Refusal

Errors = Sequence[Mapping[str, Any]]
Place = tuple[str | int, ...]

WORDS = {
    "missing": "is missing",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "too_short": "must not be empty",
    "too_long": "must hold at most {max_length} items",
    "string_unicode": HALF,
    "string_too_short": "must not be empty",
    "string_too_long": "must be at most {max_length} characters long",
    "value_error": "{error}",
}
PROMPTS = "must be a string, a list of strings, a list of token ids, or a list of such lists"
CHOICES = {  # fields that take several types
    "prompt": PROMPTS,
    "input": PROMPTS,
    "stop": "must be a string or a list of strings",
    "content": 'must be a string, or a list of parts such as {"type": "text", "text": "…"}',
}


class JsonRequest(Request):
    """A request whose body has been read."""

    parsed: dict[str, Any]

    async def json(self) -> dict[str, Any]:
        return self.parsed


class JsonRoute(APIRoute):
    """A route that reads a JSON object, whatever the Content-Type says, and names what is wrong with another body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        if self.body_field is None:
            return handler

        async def read(request: Request) -> Response:
            headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
            headers.append((b"content-type", b"application/json"))
            asked = JsonRequest({**request.scope, "headers": headers}, request.receive)
            try:
                asked.parsed = parse(await asked.body(), request.headers)
                return await handler(asked)
            except ClientDisconnect:
                raise Refusal(499, "the client left") from None
            except RecursionError:
                raise Refusal(400, "the body's JSON is nested too deeply") from None

        return read


def parse(body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the object that a body holds. Raises Refusal."""
    packed = headers.get("content-encoding", "identity")
    if packed.lower() != "identity":
        raise Refusal(415, f"the body is packed ({packed[:50]}); send it without Content-Encoding")
    if not body.strip():
        raise Refusal(400, "the body is empty; send a JSON object")
    try:
        value = json.loads(body)
    except json.JSONDecodeError as error:
        kind = headers.get("content-type", "").partition(";")[0].strip()
        hint = "" if kind in ("", "application/json") else f"; send JSON, not {kind[:100]}"
        raise Refusal(
            400, f"the body is no JSON: {error.msg}, line {error.lineno} column {error.colno}{hint}"
        ) from None
    except UnicodeDecodeError:
        raise Refusal(400, "the body is no JSON: it is not encoded in UTF-8") from None
    except RecursionError:
        raise Refusal(400, "the body's JSON is nested too deeply") from None
    except ValueError:  # Python's limit on the digits of an integer
        raise Refusal(400, "the body holds a number with thousands of digits") from None
    if not isinstance(value, dict):
        kinds = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
        raise Refusal(400, f"the body must be a JSON object, not {kinds.get(type(value), 'a number')}")
    return value


def explain(failed: RequestValidationError) -> Refusal:
    """Name the first thing that is wrong with a body, without sending any of it back but numbers in quotes."""
    errors = [(place_of(error["loc"][1:], failed.body, error["type"]), error) for error in failed.errors()]
    field = errors[0][0][:1]
    same = [(place, error) for place, error in errors if place[:1] == field]
    if field == ("messages",):
        same = [(place, error) for place, error in same if place[:3] == errors[0][0][:3]]
    # of the types that a field may have, the one that was meant is the one that fits farthest
    place, error = max(same, key=lambda each: (not each[1]["type"].endswith("_type"), len(each[0])))
    name = written(place)
    several = len({str(other["loc"]) for _, other in same}) > 1
    base = next((part for part in reversed(place) if isinstance(part, str)), "")
    if several and error["type"].endswith("_type") and base in CHOICES:
        name = written(place[: len(place) - place[::-1].index(base)])
        return Refusal(400, f"{name} {CHOICES[base]}", name)
    return Refusal(400, f"{name} {words_for(error)}".strip(), name or None)


def place_of(location: Sequence[str | int], body: Any, kind: str) -> Place:
    """Return the part of pydantic's location that is in the body: its names of types are left out."""
    place: list[str | int] = []
    value = body
    for number, part in enumerate(location):
        last = number == len(location) - 1
        known = range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
        if part in known:
            value = value[part]
            place.append(part)
        elif isinstance(value, dict) and last and kind == "missing":
            place.append(part)
    return tuple(place)


def written(place: Place) -> str:
    """Write a place as OpenAI does: messages[0].content."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def words_for(error: Mapping[str, Any]) -> str:
    """Return what is wrong, with no word of Python's."""
    given, kind = error.get("input"), error["type"]
    if isinstance(given, str) and kind in ("int_type", "float_type", "bool_type"):
        what = "true or false" if kind == "bool_type" else "a number"
        short = f": send {given} without quotes" if len(given) < 30 and _plain(given, kind) else ""
        return f"must be {what}, not a string{short}"
    facts = {
        name: f"{value:g}" if isinstance(value, float) else value for name, value in (error.get("ctx") or {}).items()
    }
    return WORDS.get(kind, "is not valid").format(**facts)


def _plain(text: str, kind: str) -> bool:
    """Say whether a string would be the right thing without its quotes."""
    if kind == "bool_type":
        return text in ("true", "false")
    try:
        json.loads(text, parse_constant=lambda name: [][0])
    except (ValueError, IndexError, RecursionError):
        return False
    return text.lstrip("-")[:1].isdigit()
