"""What clients send by default, and what they get wrong: OpenAI's meaning, or a refusal in their own words."""

from __future__ import annotations

import dataclasses
import http.client
import json
import re
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest

from kiara_cli.config.schema import ChatConfig, GenerateConfig
from kiara_cli.core.chat.fit import Forgot
from kiara_cli.core.chat.session import Session
from kiara_cli.core.generate.text import Completion, generate_text
from kiara_cli.core.serve.served import Served

CHAT = "/v1/chat/completions"
FOX = [{"role": "user", "content": "Tell me about the fox."}]
JSON = {"Content-Type": "application/json"}


def ask(up: Any, **more: Any) -> httpx2.Response:
    answer: httpx2.Response = up.post(CHAT, {"messages": FOX, "max_tokens": 3, **more})
    return answer


def said(up: Any, **more: Any) -> str:
    answer = ask(up, **more)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


@pytest.mark.parametrize(
    "headers", [{}, {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": "text/plain"}]
)
def test_a_body_is_read_as_json_whatever_its_content_type_says(up: Any, headers: dict[str, str]) -> None:
    for path, body in ((CHAT, {"messages": FOX, "max_tokens": 2}), ("/tokenize", {"text": "x"})):
        answer = httpx2.post(up.url + path, content=json.dumps(body), headers=headers, timeout=20)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("content", "headers", "message"),
    [
        (b"", JSON, "the body is empty"),
        (b" \n", JSON, "the body is empty"),
        (b'{"messages": [}', JSON, "the body is no JSON: Expecting value, line 1 column 15"),
        (b"prompt=x", {"Content-Type": "application/x-www-form-urlencoded"}, "send JSON, not application/x-www-form"),
        (b'{"a": "\xe9"}', JSON, "not encoded in UTF-8"),
        (b"[1]", JSON, "must be a JSON object, not a list"),
        (b"null", JSON, "must be a JSON object, not null"),
        (b'{"a": ' + b"9" * 5000 + b"}", JSON, "a number with thousands of digits"),
        (b'{"messages": ' + b"[" * 970 + b"]" * 970 + b"}", JSON, "nested too deeply"),
        (b"\x1f\x8b", {**JSON, "Content-Encoding": "gzip"}, "send it without Content-Encoding"),
    ],
)
def test_a_body_that_is_no_json_object_is_named_as_what_it_is(
    up: Any, content: bytes, headers: dict[str, str], message: str
) -> None:
    answer = httpx2.post(up.url + CHAT, content=content, headers=headers, timeout=20)
    assert answer.status_code in (400, 415)
    assert message in answer.json()["error"]["message"]


WRONG = [  # what is sent, the field at fault, and what is said of it
    ({"temperature": "0.7"}, "temperature", "must be a number, not a string: send 0.7 without quotes"),
    ({"temperature": "hot"}, "temperature", "must be a number, not a string"),
    ({"temperature": -1}, "temperature", "must be at least 0"),
    ({"n": "2"}, "n", "must be a number, not a string: send 2 without quotes"),
    ({"stream": "true"}, "stream", "must be true or false, not a string: send true without quotes"),
    ({"max_tokens": 2.5}, "max_tokens", "must be a whole number"),
    ({"max_tokens": 0}, "max_tokens", "must be at least 1; -1 or null means no limit"),
    ({"top_k": -2}, "top_k", "must be at least -1"),
    ({"stop": 7}, "stop", "must be a string or a list of strings"),
    ({"stop": [""]}, "stop[0]", "must not be empty"),
    ({"stop": ["x" * 201]}, "stop[0]", "must be at most 200 characters long"),
    ({"stop": ["x"] * 17}, "stop", "must hold at most 16 items"),
    ({"logprobs": 3}, "logprobs", "must be true or false"),
    ({"logit_bias": [1]}, "logit_bias", "must be an object"),
    ({"messages": "hi"}, "messages", "must be a list"),
    ({"messages": []}, "messages", "must not be empty"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "is missing"),
    ({"messages": [*FOX, {"role": "wizard"}]}, "messages[1].role", "must be 'system'"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content", "must be a string, or a list of parts"),
    ({"messages": [{"role": "user", "content": {"a": [[]]}}]}, "messages[0].content", "must be a string, or a list"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type", "is missing"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", "is missing"),
    (
        {"messages": [{"role": "user", "content": ["x", {"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[1]", "is of type 'image_url'; this server reads text alone",
    ),
    ({"prompt": 7}, "prompt", "must be a string, a list of strings, a list of token ids"),
    ({"prompt": ["a", 7]}, "prompt", "must be a string, a list of strings, a list of token ids"),
    ({"prompt": [1, -5]}, "prompt[1]", "must be at least 0"),
    ({"prompt": []}, "prompt", "must not be empty"),
    ({"prompt": [[]]}, "prompt[0]", "must not be empty"),
    ({"prompt": "x", "logprobs": 30}, "logprobs", "must be at most 20"),
    ({"prompt": ["x"] * 17}, "prompt", "17 texts in one request"),
    ({"prompt": "x", "n": 17}, "n", "17 texts in one request"),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "field", "message"), WRONG)
def test_what_is_wrong_is_said_of_a_field_that_was_sent_and_without_pythons_words(
    up: Any, sent: dict[str, Any], field: str, message: str
) -> None:
    answer = up.post("/v1/completions", sent) if "prompt" in sent else ask(up, **sent)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert message in error["message"]
    assert error["param"] == field
    assert not re.search(
        r"0x|Input should|function-|pydantic|dict|Value error|NoneType|codec|str\b", error["message"]
    )


def test_half_a_character_is_named_as_such(up: Any) -> None:
    for content, field in (
        (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "messages[0].content"),
        (b'{"messages": [{"role": "user", "content": "x"}], "stop": "\\udc00"}', "stop"),
    ):
        error = httpx2.post(up.url + CHAT, content=content, headers=JSON).json()["error"]
        assert error["param"] == field
        assert "one half of a surrogate pair" in error["message"]


def test_no_limit_is_the_servers_own_and_more_than_that_is_cut(start: Any) -> None:
    with start(max_tokens=30) as up:
        for length in (-1, None, 10**6, 10**30):
            for path, name, of in (
                (CHAT, "max_completion_tokens", {"messages": FOX}),
                (CHAT, "max_tokens", {"messages": FOX}),
                ("/v1/completions", "max_tokens", {"prompt": "The"}),
                ("/generate", "max_new_tokens", {"prompt": "The"}),
            ):
                done = up.post(path, {**of, name: length, "temperature": 0}).json()
                written = done.get("usage", done)["completion_tokens"]
                assert (written, (done.get("choices") or [done])[0]["finish_reason"]) == (30, "length"), (
                    path,
                    length,
                )
        assert (
            ask(up, max_tokens=None, max_completion_tokens=4, temperature=0).json()["usage"]["completion_tokens"] == 4
        )


def test_what_means_no_limit_or_none_overrides_what_the_server_has_set(
    start: Any, model: Callable[..., Served]
) -> None:
    settings: dict[str, Any] = {"seed": 5, "temperature": 1.0, "max_tokens": 12}
    with start(served=model()) as plain:
        expected = said(plain, **settings)
    own = GenerateConfig(top_k=1, stop=(expected[1],))
    with start(served=dataclasses.replace(model(), settings=own)) as up:
        for top_k in (0, -1):
            for stop in ("", [], None):
                assert said(up, top_k=top_k, stop=stop, **settings) == expected
        assert said(up, **settings) != expected


def test_turns_and_parts_of_every_kind_are_read_as_text(up: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"in": "Rome"}'}}
    sent = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "Is it "}, {"type": "text", "text": "hot?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "35"},
        {
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Yes"}, {"type": "refusal", "refusal": "."}],
        },
        {"role": "user", "content": ""},
    ]
    read = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Is it hot?"},
        {"role": "assistant", "content": 'weather({"in": "Rome"})'},
        {"role": "user", "content": "35"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": ""},
    ]
    settings: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "tools": [call], "tool_choice": "none"}
    assert said(up, messages=sent, **settings) == said(up, messages=read, **settings)
    assert ask(up, tools=[call]).json()["error"]["param"] == "tools"
    for default in ({"tools": []}, {"top_logprobs": 0, "logprobs": False}, {"response_format": {"type": "text"}},
                    {"model": ""}, {"n": None, "seed": -1, "stream_options": None, "user": "me"}):  # fmt: skip
        assert ask(up, **default).status_code == 200, default


def test_a_last_turn_of_the_assistant_is_continued_when_that_is_asked_for(up: Any, start: Any, model: Any) -> None:
    begun = [*FOX, {"role": "assistant", "content": "Once upon"}]
    for server in (up, None):
        served = up.served if server else model(conversations=False)
        with start(served=served) as at:
            ids = served.template.encode(begun, continued=True)
            body = {"prompt": ids, "max_tokens": 9, "temperature": 0}
            expected = at.post("/v1/completions", body).json()["choices"][0]["text"]
            settings = {"messages": begun, "max_tokens": 9, "temperature": 0}
            for flag in ({"continue_final_message": True, "add_generation_prompt": False},
                         {"continue_final_message": True}, {"add_generation_prompt": False}):  # fmt: skip
                assert said(at, **settings, **flag) == expected
            assert said(at, **settings) != expected
    refused = ask(up, add_generation_prompt=False).json()["error"]
    assert refused["param"] == "add_generation_prompt"
    assert "the last one is of role 'user'" in refused["message"]


def test_head_answers_like_get_without_a_body(up: Any) -> None:
    for path in ("/health", "/v1/models", "/"):
        answer = httpx2.head(up.url + path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["content-length"]) > 50
    assert httpx2.head(up.url + "/nothing").status_code == 404


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/chat/completions", "/v1 is missing; the base URL of an OpenAI client ends in /v1"),
        ("/models", "/v1 is missing"),
        ("/v1/v1/chat/completions", "/v1 is there twice; the base URL of an OpenAI client ends in one /v1"),
        ("//v1/completions", "did you mean /v1/completions?"),
        ("/v1/responses", "OpenAI's API is at /v1/chat/completions, /v1/completions"),
    ],
)
def test_an_address_that_is_nearly_right_is_put_right(up: Any, path: str, message: str) -> None:
    client = openai.OpenAI(base_url=up.url + path, api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError, match=re.escape(message)):
        client.post("", body={}, cast_to=object)


def test_health_answers_a_watchdog_that_names_no_host(up: Any) -> None:
    host, port = up.url.removeprefix("http://").split(":")
    line = http.client.HTTPConnection(host, int(port), timeout=20)
    line._http_vsn, line._http_vsn_str = 10, "HTTP/1.0"  # type: ignore[attr-defined]
    line.putrequest("GET", "/health", skip_host=True)
    line.endheaders()
    assert line.getresponse().status == 200
    line.close()


TURNS = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i} of many, and more"} for i in range(31)]


@pytest.mark.parametrize("conversations", [True, False])
def test_chat_and_server_forget_the_same_turns_and_go_on_alike(
    start: Any, model: Callable[..., Served], conversations: bool
) -> None:
    served = model(conversations=conversations)
    chat, settings = ChatConfig(system="Be kind.", max_new_tokens=60), GenerateConfig(temperature=0)
    session = Session(served.engine, served.tokenizer, settings, chat, list(TURNS[:-1]), conversations)
    events = list(session.reply(TURNS[-1]["content"]))
    forgot = next(event for event in events if isinstance(event, Forgot))
    expected = events[-1]
    assert isinstance(expected, Completion)
    assert expected.prompt_tokens + expected.completion_tokens > served.context, "it must go on beyond the context"
    with start(served=dataclasses.replace(model(conversations=conversations), settings=settings, chat=chat)) as up:
        body = {"messages": TURNS, "n": 2}
        reply = up.post(CHAT, body).json()
        assert [choice["message"]["content"] for choice in reply["choices"]] == [expected.text] * 2
        assert reply["kiara"]["forgotten_turns"] == forgot.turns
        assert reply["usage"]["prompt_tokens"] == expected.prompt_tokens
        assert reply["usage"]["completion_tokens"] == 2 * expected.completion_tokens == 120
        lines = up.post(CHAT, {**body, "n": 1, "stream": True}).text.split("\n\n")
        deltas = [json.loads(line.removeprefix("data: "))["choices"][0]["delta"] for line in lines[:-2]]
        assert "".join(delta.get("content", "") for delta in deltas) == expected.text


def test_a_system_prompt_that_is_too_long_is_named_and_not_the_message(start: Any, model: Any) -> None:
    long = "be a good fox " * 100
    with start() as up:
        error = ask(up, messages=[{"role": "system", "content": long}, *FOX]).json()["error"]
        assert error["message"].startswith("the system message is ")
        assert error["code"] == "context_length_exceeded"
        error = ask(up, messages=[{"role": "user", "content": long}]).json()["error"]
        assert error["message"].startswith("the last message is ")
    own = dataclasses.replace(model(), chat=ChatConfig(system=long))
    with start(served=own) as up:
        error = ask(up).json()["error"]
        assert error["message"].startswith("the server's own system prompt (chat.system) is ")
        assert ask(up, messages=[{"role": "system", "content": "Be kind."}, *FOX]).status_code == 200


def test_completions_start_documents_for_prompts_that_are_null_or_empty(up: Any, model: Any) -> None:
    alone = model()
    *_, expected = generate_text(alone.engine, alone.tokenizer, "", GenerateConfig(max_new_tokens=8, temperature=0))
    for prompt in ("", None, [""]):
        done = up.post("/v1/completions", {"prompt": prompt, "max_tokens": 8, "temperature": 0}).json()
        assert done["choices"][0]["text"] == expected.text
