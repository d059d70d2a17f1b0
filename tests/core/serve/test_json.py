"""`response_format` as OpenAI's own client sends it: JSON of the schema, whole, streamed, several at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

SAY: list[Any] = [{"role": "user", "content": "A fox?"}]


class Fox(BaseModel):
    """A model of pydantic's, which OpenAI's client turns into a schema and back."""

    model_config = ConfigDict(extra="forbid")
    colour: Literal["red", "grey"]
    age: int = Field(ge=0, le=20)
    friends: list[Literal["hen", "crow"]] = Field(max_length=3)


SCHEMA = Fox.model_json_schema()
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "fox", "schema": SCHEMA, "strict": True}}


@pytest.fixture
def client(up: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=up.url + "/v1", api_key="none", max_retries=0)


def test_a_reply_is_read_back_as_the_object_it_was_asked_to_be(client: openai.OpenAI) -> None:
    reply = client.chat.completions.parse(model="tiny", messages=SAY, response_format=Fox, max_tokens=90, seed=1, n=3)
    assert [type(choice.message.parsed) for choice in reply.choices] == [Fox] * 3
    assert {choice.finish_reason for choice in reply.choices} == {"stop"}


def test_streams_logprobs_and_seeds_work_as_ever(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": SAY, "response_format": FORMAT, "max_tokens": 90, "seed": 7}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2).choices[0]
    stream = client.chat.completions.create(**asked, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole.message.content
    Fox.model_validate_json(text)
    assert whole.logprobs is not None
    assert whole.logprobs.content is not None
    assert "".join(token.token for token in whole.logprobs.content) == text


def test_texts_are_continued_with_json_beside_those_without(client: openai.OpenAI) -> None:
    more: Any = {"response_format": FORMAT}
    done = client.completions.create(model="tiny", prompt=["A", "B"], max_tokens=90, temperature=0, extra_body=more)
    for choice in done.choices:
        assert choice.finish_reason == "stop"
        Fox.model_validate_json(choice.text)
    free = client.completions.create(model="tiny", prompt="A", max_tokens=9, temperature=0)
    assert free.choices[0].finish_reason == "length"


def test_json_that_is_cut_off_is_not_said_to_have_stopped(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="tiny", messages=SAY, max_tokens=4, response_format={"type": "json_object"}
    )
    assert reply.choices[0].finish_reason == "length"
    assert (reply.choices[0].message.content or "").startswith("{")


def test_json_goes_on_where_the_context_ends_and_older_turns_are_forgotten(client: openai.OpenAI, up: Any) -> None:
    turns: list[Any] = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i}"} for i in range(9)]
    schema = {"type": "array", "items": {"enum": ["hen", "crow"]}, "minItems": 20, "maxItems": 20}
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    reply = client.chat.completions.create(model="tiny", messages=turns, max_tokens=200, response_format=form)
    assert reply.choices[0].finish_reason == "stop"
    assert len(json.loads(reply.choices[0].message.content or "")) == 20
    assert reply.usage is not None
    assert reply.usage.total_tokens > up.served.context


def test_a_server_whose_replies_end_at_a_text_does_not_cut_json(start: Any, model: Any) -> None:
    served = model()
    served = dataclasses.replace(served, settings=dataclasses.replace(served.settings, stop=('"',)))
    with start(served=served) as up:
        body = {"messages": SAY, "response_format": FORMAT, "max_tokens": 90}
        Fox.model_validate_json(up.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"])


def test_json_does_not_go_on_with_a_message_that_has_begun(up: Any) -> None:
    begun = [*SAY, {"role": "assistant", "content": "{"}]
    body = {"messages": begun, "continue_final_message": True, "response_format": {"type": "json_object"}}
    answer = up.post("/v1/chat/completions", body)
    assert answer.status_code == 400
    assert re.search("begins at its beginning", answer.json()["error"]["message"])


def test_the_program_on_the_chat_page_runs(up: Any) -> None:
    page = (Path(__file__).parents[3] / "docs/chat.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(program.replace("http://127.0.0.1:8000", up.url), "chat.md", "exec", dont_inherit=True), {})
    assert shown.getvalue().startswith("stop name=")
