"""What schemathesis makes of the server's own OpenAPI document: no request breaks it, no answer but those said."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]


def document(up: Any) -> dict[str, Any]:
    found: dict[str, Any] = up.get("/openapi.json").json()
    return found


def test_the_document_names_every_route_and_every_refusal(up: Any) -> None:
    paths = document(up)["paths"]
    assert set(paths) == {
        "/generate", "/tokenize", "/detokenize", "/tokenizer_info", "/health", "/metrics", "/why",
        "/v1/models", "/v1/models/{model}", "/v1/completions", "/v1/chat/completions", "/v1/embeddings",
    }  # fmt: skip
    for path, methods in paths.items():
        for route in methods.values():
            assert {"200", "400", "401", "403", "404", "413", "421", "500", "503"} <= set(route["responses"]), path
            assert "422" not in route["responses"]


OPERATIONS = [
    "/generate",
    "/tokenize",
    "/detokenize",
    "/why",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/embeddings",
]


@pytest.mark.parametrize("path", OPERATIONS)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=str)
def test_no_request_that_can_be_made_from_it_breaks_the_server(start: Any, path: str, mode: GenerationMode) -> None:
    with start(max_tokens=8) as up:
        operation = schemathesis.openapi.from_dict(document(up))[path]["POST"]

        @settings(max_examples=15, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy(mode))
        def check(case: Any) -> None:
            answer = case.call(base_url=up.url)
            assert answer.status_code < 500, answer.text
            case.validate_response(answer, checks=CHECKS)

        check()
        assert up.get("/health").status_code == 200
