"""OpenAI's own client, unmodified, against the server."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable
from typing import Any

import openai
import pytest
import torch

from kiara_cli.core.generate.text import generate_text
from kiara_cli.core.serve.served import Served
from kiara_cli.core.tokenizer.protocol import decode

FOX = [{"role": "user", "content": "Tell me about the fox."}]


@pytest.fixture
def client(up: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=up.url + "/v1", api_key="none", max_retries=0)


def test_the_model_is_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "kiara"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-9' here; there is 'tiny'"):
        client.models.retrieve("gpt-9")


def test_a_completion_is_what_the_engine_writes(client: openai.OpenAI, up: Any, model: Callable[..., Served]) -> None:
    done = client.completions.create(model="tiny", prompt="Once upon", max_tokens=12, temperature=0)
    alone = model()
    settings = alone.settings.__class__(max_new_tokens=12, temperature=0)
    *_, expected = generate_text(alone.engine, alone.tokenizer, "Once upon", settings)
    assert done.choices[0].text == expected.text
    assert done.choices[0].finish_reason == expected.finish_reason == "length"
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (len(alone.tokenizer.encode("Once upon")), 12)
    assert done.usage.total_tokens == done.usage.prompt_tokens + 12


def test_streams_say_the_same_as_whole_replies(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "tiny", "seed": 5, "temperature": 1.0, "max_tokens": 30}
    whole = client.completions.create(prompt="The hen", **settings).choices[0]
    chunks = list(client.completions.create(prompt="The hen", stream=True, **settings))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason

    reply = client.chat.completions.create(messages=FOX, **settings)
    events = list(
        client.chat.completions.create(messages=FOX, stream=True, stream_options={"include_usage": True}, **settings)
    )
    said = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert said == reply.choices[0].message.content
    assert events[0].choices[0].delta.role == "assistant"
    assert events[-1].choices == []
    assert events[-1].usage == reply.usage
    assert len({event.id for event in events}) == 1


def test_the_asynchronous_client_works_for_many_at_once(up: Any) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=up.url + "/v1", api_key="none") as client:

            async def one(seed: int) -> str:
                stream = await client.chat.completions.create(
                    model="tiny", messages=FOX, seed=seed, max_tokens=10 + seed, stream=True
                )
                return "".join([event.choices[0].delta.content or "" async for event in stream])

            return await asyncio.gather(*(one(seed) for seed in range(12)))

    several = asyncio.run(ask())
    with openai.OpenAI(base_url=up.url + "/v1", api_key="none") as client:
        for seed, text in enumerate(several):
            alone = client.chat.completions.create(model="tiny", messages=FOX, seed=seed, max_tokens=10 + seed)
            assert alone.choices[0].message.content == text


def test_log_probabilities_belong_to_the_tokens_that_are_shown(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="tiny", messages=FOX, temperature=0, max_tokens=9, logprobs=True, top_logprobs=3
    ).choices[0]
    assert reply.logprobs is not None
    assert reply.logprobs.content is not None
    content = reply.logprobs.content
    assert b"".join(bytes(token.bytes or []) for token in content).decode(errors="replace") == reply.message.content
    for token in content:
        assert len(token.top_logprobs) == 3
        assert sum(math.exp(other.logprob) for other in token.top_logprobs) <= 1.0001
    old = client.completions.create(model="tiny", prompt="The fox", temperature=0, max_tokens=9, logprobs=2).choices[
        0
    ]
    assert old.logprobs is not None
    assert len(old.logprobs.tokens or []) == len(old.logprobs.token_logprobs or []) == 9
    assert (old.logprobs.text_offset or [])[0] == 0


def test_a_stop_ends_the_text_and_its_tokens_are_not_shown(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tiny", prompt="The", temperature=0, max_tokens=20).choices[0].text
    stop = whole[6:8]
    cut = client.completions.create(
        model="tiny", prompt="The", temperature=0, max_tokens=20, stop=[stop], logprobs=0
    ).choices[0]
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.logprobs is not None
    assert all(offset < len(cut.text) for offset in cut.logprobs.text_offset or [])


def test_n_texts_have_seeds_in_a_row_and_count_the_prompt_once(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "tiny", "max_tokens": 8, "temperature": 1.0}
    several = client.completions.create(prompt="A fox", seed=3, n=3, **settings)
    single = [client.completions.create(prompt="A fox", seed=seed, **settings) for seed in (3, 4, 5)]
    assert [choice.text for choice in several.choices] == [one.choices[0].text for one in single]
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert several.usage is not None
    assert single[0].usage is not None
    assert several.usage.prompt_tokens == single[0].usage.prompt_tokens
    assert several.usage.completion_tokens == 24
    both = client.completions.create(prompt=["A fox", "A hen"], seed=3, n=2, echo=True, **settings)
    assert [choice.text[:5] for choice in both.choices] == ["A fox", "A fox", "A hen", "A hen"]


def test_penalties_and_biases_change_the_text(client: openai.OpenAI, up: Any) -> None:
    settings: dict[str, Any] = {"model": "tiny", "prompt": "The", "temperature": 0, "max_tokens": 12}
    plain = client.completions.create(**settings).choices[0].text
    assert client.completions.create(frequency_penalty=2.0, presence_penalty=2.0, **settings).choices[0].text != plain
    wanted = up.served.tokenizer.encode("x")[0]
    assert client.completions.create(logit_bias={str(wanted): 100}, **settings).choices[0].text == "x" * 12
    extra = client.completions.create(extra_body={"top_k": 1, "temperature": 2.0}, **settings).choices[0].text
    assert extra == plain


def test_embeddings_are_unit_vectors_and_alike_texts_are_near(client: openai.OpenAI) -> None:
    texts = ["the fox met a hen", "the fox met a hen.", "zzz qqq 123"]
    vectors = [item.embedding for item in client.embeddings.create(model="tiny", input=texts).data]
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-4 for vector in vectors)
    near, far = (sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:])
    assert near > far
    floats = client.embeddings.create(model="tiny", input=texts[0], encoding_format="float").data[0].embedding
    assert floats == pytest.approx(vectors[0], abs=1e-6)


def test_an_old_conversation_loses_its_oldest_turns_and_the_reply_says_so(client: openai.OpenAI) -> None:
    turns: list[Any] = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i} of many"} for i in range(31)]
    reply = client.chat.completions.create(model="tiny", messages=turns, max_tokens=5)
    assert reply.model_extra is not None
    assert reply.model_extra["kiara"]["forgotten_turns"] > 0
    short = client.chat.completions.create(model="tiny", messages=FOX, max_tokens=5)
    assert "kiara" not in (short.model_extra or {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -1}, "temperature"),
        ({"model": "other"}, "there is no model 'other'"),
        ({"n": 1000}, "this server writes at most 16"),
        ({"messages": []}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "text alone",
        ),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": "a fox " * 200}]}, "longer than what this model reads"),
        ({"logit_bias": {"fox": 1}}, "token ids"),
        ({"logit_bias": {"99999": 1}}, "there is no token 99999"),
        ({"stop": [""]}, "stop"),
        ({"top_logprobs": 3}, "needs logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "no tools"),
        ({"response_format": {"type": "xml"}}, "response_format.type must be 'text', 'json_object' or 'json_schema'"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema is missing"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "json_schema.schema is missing"),
        ({"response_format": {"type": "json_object"}, "stop": "}"}, "could cut the JSON"),
        ({"response_format": {"type": "json_object", "schema": {"not": {}}}}, "'not', which is not supported"),
    ],
)
def test_mistakes_become_the_clients_own_exceptions(client: openai.OpenAI, change: Any, message: str) -> None:
    with pytest.raises(openai.APIStatusError, match=message) as error:
        client.chat.completions.create(**{"model": "tiny", "messages": FOX, **change})
    assert type(error.value) is (openai.NotFoundError if "model" in change else openai.BadRequestError)
    assert error.value.body is not None


def test_a_long_prompt_is_refused_by_its_length(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="tiny", prompt="a fox met a hen " * 100)
    assert error.value.code == "context_length_exceeded"
    assert error.value.param == "prompt"


def test_an_end_that_was_sampled_is_counted_where_prompts_are_scored(up: Any) -> None:
    """lm-evaluation-harness drops the last token of an echo: it must be the sampled one, an end of text included."""
    end = up.served.tokenizer.specials["<|endoftext|>"]
    body = {"prompt": "The fox", "max_tokens": 1, "logprobs": 1, "echo": True, "logit_bias": {str(end): 100}}
    choice = up.post("/v1/completions", body).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("The fox", "stop")
    assert choice["logprobs"]["tokens"][-1] == "<|endoftext|>"
    assert len(choice["logprobs"]["tokens"]) == len(up.served.tokenizer.encode("The fox")) + 1


def test_echo_with_logprobs_scores_prompts_as_the_model_does(client: openai.OpenAI, up: Any) -> None:
    tokenizer, engine = up.served.tokenizer, up.served.engine
    prompts = [tokenizer.encode("The fox met"), tokenizer.encode("a hen \N{FOX FACE}")]
    settings: dict[str, Any] = {"model": "tiny", "echo": True, "logprobs": 3}
    scored = client.completions.create(prompt=prompts, max_tokens=0, **settings)
    written = client.completions.create(prompt=prompts, max_tokens=2, temperature=0, **settings)
    streamed = client.completions.create(prompt=prompts, max_tokens=2, temperature=0, stream=True, **settings)
    parts: dict[int, list[Any]] = {0: [], 1: []}
    for chunk in streamed:
        parts[chunk.choices[0].index].append(chunk.choices[0])
    for ids, choice, longer in zip(prompts, scored.choices, written.choices, strict=True):
        with torch.inference_mode():
            expected = engine.model(torch.tensor([ids]))[0].log_softmax(-1)
        assert choice.text == decode(tokenizer, ids)
        assert choice.finish_reason == "length"
        found = choice.logprobs
        assert found is not None
        assert len(found.tokens or []) == len(ids)
        assert (found.token_logprobs or [])[0] is (found.top_logprobs or [])[0] is None
        for place, token in enumerate(ids[1:], 1):
            assert (found.token_logprobs or [])[place] == pytest.approx(float(expected[place - 1, token]), abs=1e-4)
            top = (found.top_logprobs or [])[place]
            assert sorted(top.values(), reverse=True)[:3] == pytest.approx(
                expected[place - 1].topk(3).values.tolist(), abs=1e-4
            )
            assert top[(found.tokens or [])[place]] == (found.token_logprobs or [])[place]
        assert longer.text.startswith(choice.text)
        assert longer.logprobs is not None
        assert (longer.logprobs.tokens or [])[: len(ids)] == found.tokens
        assert len(longer.logprobs.tokens or []) == len(ids) + 2
        assert (longer.logprobs.text_offset or [])[: len(ids)] == found.text_offset
        assert (longer.logprobs.text_offset or [])[len(ids)] == len(choice.text)
        pieces = parts[choice.index]
        assert "".join(piece.text for piece in pieces) == longer.text
        assert [t for piece in pieces if piece.logprobs for t in piece.logprobs.tokens] == longer.logprobs.tokens
    assert scored.usage is not None
    assert (scored.usage.completion_tokens, scored.usage.prompt_tokens) == (0, sum(map(len, prompts)))


def test_tokens_that_are_no_text_have_keys_of_their_own(client: openai.OpenAI, up: Any) -> None:
    settings: dict[str, Any] = {"model": "tiny", "prompt": "The", "max_tokens": 12, "seed": 1, "temperature": 1.5}
    found = client.completions.create(logprobs=20, **settings).choices[0].logprobs
    assert found is not None
    keys = set()
    for token, logprob, top in zip(
        found.tokens or [], found.token_logprobs or [], found.top_logprobs or [], strict=True
    ):
        assert 20 <= len(top) <= 21, "the sampled one may be beyond the likeliest"
        assert top[token] == logprob
        keys |= set(top)
    assert any(re.fullmatch(r"bytes:(\\x[0-9a-f]{2})+", key) for key in keys)
    assert not any("\ufffd" in key for key in keys)


def test_fields_that_nobody_knows_are_ignored(up: Any) -> None:
    body = {"messages": FOX, "max_tokens": 3, "user": "me", "store": False, "metadata": {}, "no_such_thing": [1]}
    assert up.post("/v1/chat/completions", body).status_code == 200


def test_a_stream_ends_with_done_and_is_made_of_events(up: Any) -> None:
    text = up.post("/v1/completions", {"prompt": "The", "max_tokens": 4, "stream": True}).text
    lines = [line for line in text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert all(json.loads(line.removeprefix("data: "))["object"] == "text_completion" for line in lines[:-1])


def test_a_model_of_plain_text_reads_a_transcript(start: Any, model: Callable[..., Served]) -> None:
    served = model(conversations=False)
    assert served.tokenizer.size
    ids = served.template.encode([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}])
    marks = set(served.tokenizer.specials.values())
    assert [i for i in ids if i in marks] == [served.tokenizer.specials["<|endoftext|>"]]
    with start(served=served) as up:
        assert up.get("/health").json()["template"] == "transcript"
        assert up.post("/v1/chat/completions", {"messages": FOX, "max_tokens": 4}).status_code == 200
