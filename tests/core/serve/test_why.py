"""POST /why: the last reply, token by token, between the tokens of others."""

from __future__ import annotations

from typing import Any

import pytest

TALK = [
    {"role": "user", "content": "A fox met a hen."},
    {"role": "assistant", "content": "The fox said good day."},
]


def test_each_token_of_the_last_reply_has_its_probability_and_its_sources(up: Any) -> None:
    found = up.post("/why", {"messages": TALK}).json()
    tokenizer, template = up.served.tokenizer, up.served.template
    ids = template.encode(TALK, continued=True)
    assert found["start"] == len(template.encode(TALK[:1]))
    assert [one["position"] for one in found["tokens"]] == list(range(found["start"], len(ids)))
    assert bytes(byte for one in found["tokens"] for byte in one["bytes"]) == b"The fox said good day."
    scored = up.post("/v1/completions", {"prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 0}).json()
    logprobs = scored["choices"][0]["logprobs"]["token_logprobs"][found["start"] :]
    for one, logprob in zip(found["tokens"], logprobs, strict=True):
        assert one["probability"] == pytest.approx(2.718281828**logprob, rel=1e-3, abs=1e-9)
        assert len(one["top"]) == 5
        assert all(source["position"] < one["position"] for source in one["sources"])
    assert tokenizer.size <= 384


def test_what_cannot_be_explained_is_refused_and_much_is_bounded(start: Any, up: Any) -> None:
    for messages in (TALK[:1], [*TALK, {"role": "user", "content": "Why?"}], [{"role": "system", "content": "Hi."}]):
        answer = up.post("/why", {"messages": messages})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "there is no reply to explain; say something first"
    long = up.post("/why", {"messages": [TALK[0], {"role": "assistant", "content": "The fox said good day. " * 200}]})
    assert len(long.json()["tokens"]) < 96  # what the model reads at once
    assert up.post("/why", {"messages": TALK, "model": "other"}).status_code == 404
    with start(max_messages=1) as other:
        assert "at most 1" in other.post("/why", {"messages": TALK}).json()["error"]["message"]
