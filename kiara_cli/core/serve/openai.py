"""The routes under /v1, as OpenAI's clients expect them.

In: bodies of `shapes`. Out: replies of `replies`, whole or streamed.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from array import array
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from kiara_cli.core.chat.fit import Forgot, fit
from kiara_cli.core.generate.embed import embed
from kiara_cli.core.generate.engine import GenerationRequest
from kiara_cli.core.serve import replies, shapes
from kiara_cli.core.serve.admission import Admission, Admitting, check_ids, check_prompt
from kiara_cli.core.serve.refusals import Refusal
from kiara_cli.core.serve.served import Served
from kiara_cli.core.serve.shapes import ChatBody, CompletionBody, EmbeddingBody, OpenAISettings
from kiara_cli.core.serve.streaming import Stream, chunks_of, collect
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, decode

router = APIRouter(prefix="/v1", tags=["OpenAI"])


def streams(model: type[Any]) -> dict[int | str, dict[str, Any]]:
    """Declare that a route answers with one object, or with events."""
    data = {"type": "string", "description": "an object as JSON; OpenAI's streams end with [DONE]"}
    events = {"schema": {"type": "object", "properties": {"data": data}, "required": ["data"]}}
    return {200: {"model": model, "content": {"text/event-stream": events}}}


@router.get("/models", response_model=shapes.Models)
async def models(admission: Admitting) -> JSONResponse:
    """List the model that is being served."""
    return JSONResponse({"object": "list", "data": [card(admission.worker.served)]})


@router.get("/models/{model:path}", response_model=shapes.ModelCard)
async def model(model: str, admission: Admitting) -> JSONResponse:
    """Describe the model that is being served."""
    return JSONResponse(card(admission.find(model)))


@router.post("/completions", responses=streams(shapes.Completions))
async def completions(body: CompletionBody, request: Request, admission: Admitting) -> Response:
    """Continue texts, or ids. An empty prompt starts a document."""
    served = admission.find(body.model)
    if body.suffix:
        raise Refusal(400, "this server does not write before a suffix", "suffix")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise Refusal(400, "this server does not choose the best of several texts; leave best_of out", "best_of")
    if body.echo and body.logprobs is not None:
        raise Refusal(400, "this server does not score prompts; leave echo or logprobs out", "echo")
    prompts = await asyncio.to_thread(read_prompts, body.prompt, served)
    length = admission.check_length(body.max_tokens, served.settings.max_new_tokens, "max_tokens")
    end = served.tokenizer.specials[END_OF_TEXT]
    config = body.config(served.settings, length)
    generations = repeated(
        [
            GenerationRequest(ids or [end], config, served.ends | {end}, bias(body, served), body.logprobs)
            for ids in prompts
        ],
        body.n,
    )
    echo = [decode(served.tokenizer, ids) for ids in prompts] if body.echo else ()
    admission.log_prompt(
        request, "\n".join(decode(served.tokenizer, ids) for ids in prompts) if admission.limits.log_prompts else ""
    )
    reply = replies.Reply(
        replies.COMPLETION, served.name, served.tokenizer, [len(ids or [end]) for ids in prompts], body.n or 1,
        body.logprobs is not None, echo,
    )  # fmt: skip
    return await answer(body, request, admission, served, generations, reply)


@router.post("/chat/completions", responses=streams(shapes.Chat))
async def chat(body: ChatBody, request: Request, admission: Admitting) -> Response:
    """Reply in a conversation. What no longer fits into the context is forgotten, oldest turns first; the field
    `kiara` then says how many."""
    served = admission.find(body.model)
    if body.tools:
        raise Refusal(400, "this server's models call no tools; leave tools out", "tools")
    if (body.response_format or {}).get("type", "text") != "text":
        raise Refusal(400, "this server promises no format but text; leave response_format out", "response_format")
    if body.top_logprobs is not None and not body.logprobs:
        raise Refusal(400, "top_logprobs needs logprobs to be true", "top_logprobs")
    asked = body.max_completion_tokens or body.max_tokens
    length = admission.check_length(asked, served.chat.max_new_tokens, "max_completion_tokens")
    ids, forgot = await asyncio.to_thread(read_messages, body, served, admission, length)
    template = served.template
    config = body.config(served.settings, length, template.stop)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    generations = repeated([GenerationRequest(ids, config, template.stop_ids, bias(body, served), logprobs)], body.n)
    admission.log_prompt(request, "\n".join(text_of(message.content) for message in body.messages))
    extra = {"kiara": {"forgotten_turns": forgot.turns}} if forgot else {}
    reply = replies.Reply(
        replies.CHAT, served.name, served.tokenizer, [len(ids)], body.n or 1, bool(body.logprobs), extra=extra
    )
    return await answer(body, request, admission, served, generations, reply)


@router.post("/embeddings", response_model=shapes.Embeddings)
async def embeddings(body: EmbeddingBody, admission: Admitting) -> JSONResponse:
    """Turn texts into vectors of length 1: the mean of the model's last states."""
    served = admission.find(body.model)
    width = served.engine.config.emb_dim
    if body.dimensions not in (None, width):
        raise Refusal(400, f"this model's vectors have {width} dimensions; leave dimensions out", "dimensions")
    texts = await asyncio.to_thread(read_prompts, body.input, served, "input")
    if len(texts) > admission.limits.max_inputs:
        raise Refusal(400, f"{len(texts)} texts; this server embeds at most {admission.limits.max_inputs}", "input")
    if not all(texts):
        raise Refusal(400, "an empty text has no vector", "input")
    vectors = [await admission.worker.call(partial(embed, served.engine, ids)) for ids in texts]
    floats = body.encoding_format != "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": vector if floats else in_base64(vector)}
        for index, vector in enumerate(vectors)
    ]
    read = sum(map(len, texts))
    usage = {"prompt_tokens": read, "total_tokens": read}
    return JSONResponse({"object": "list", "data": data, "model": served.name, "usage": usage})


async def answer(
    body: OpenAISettings,
    request: Request,
    admission: Admission,
    served: Served,
    generations: Sequence[GenerationRequest],
    reply: replies.Reply,
) -> Response:
    """Have generations written, and send the reply whole or as it comes."""
    admission.check_choices(len(generations))
    job = admission.submit(request, served, generations, bool(body.stream))
    if not body.stream:
        return JSONResponse(reply.whole(await collect(admission.worker, request, job)))
    include = bool(body.stream_options and body.stream_options.include_usage)
    chunks = chunks_of(job, admission.limits.stream_interval_ms / 1000)
    return Stream(reply.stream(chunks, include), admission.worker, job)


def repeated(generations: Sequence[GenerationRequest], n: int | None) -> list[GenerationRequest]:
    """Ask for each generation n times, with seeds in a row."""

    def again(generation: GenerationRequest, i: int) -> GenerationRequest:
        if generation.config.seed is None or not i:
            return generation
        return dataclasses.replace(
            generation, config=dataclasses.replace(generation.config, seed=(generation.config.seed + i) % 2**63)
        )

    return [again(generation, i) for generation in generations for i in range(n or 1)]


def read_prompts(
    given: str | list[str] | list[int] | list[list[int]], served: Served, param: str = "prompt"
) -> list[list[int]]:
    """Return the ids of each prompt. Raises Refusal for one that is too long, or holds unknown ids."""
    several = given if isinstance(given, list) and isinstance(given[0], str | list) else [given]
    out = []
    for prompt in several:
        ids = served.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        check_prompt(ids, served, param)
        out.append(ids)
    return out


def read_messages(
    body: ChatBody, served: Served, admission: Admission, length: int
) -> tuple[list[int], Forgot | None]:
    """Return the ids of a conversation, and what of it was left out. Raises Refusal."""
    if len(body.messages) > admission.limits.max_messages:
        most = admission.limits.max_messages
        raise Refusal(400, f"{len(body.messages)} messages; this server reads at most {most}", "messages")
    messages: list[Message] = [
        {"role": "system" if m.role == "developer" else m.role, "content": text_of(m.content)} for m in body.messages
    ]
    opening = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages) - 1)
    system, turns = messages[:opening], messages[opening:]
    if not system and served.chat.system:
        system = [{"role": "system", "content": served.chat.system}]
    budget = served.context - max(1, min(length, served.context // 4))
    ids, forgot = fit(served.template, system, turns, budget)
    if forgot is not None and forgot.tokens:
        raise Refusal(
            400,
            f"the last message is {forgot.tokens} tokens longer than what this model reads at once, {budget}",
            "messages",
            "context_length_exceeded",
        )
    return ids, forgot


def text_of(content: str | list[shapes.ContentPart] | None) -> str:
    """Return a message's text. Raises Refusal for pictures and the like."""
    if isinstance(content, list):
        if any(part.type != "text" or part.text is None for part in content):
            raise Refusal(400, "this server reads text alone", "messages")
        return "".join(part.text or "" for part in content)
    return content or ""


def bias(body: OpenAISettings, served: Served) -> Mapping[int, float]:
    """Return what is added to the scores of ids. Raises Refusal for ids that do not exist."""
    given = body.logit_bias or {}
    if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in given):
        raise Refusal(400, "logit_bias is a map from token ids to numbers", "logit_bias")
    found = {int(key): value for key, value in given.items()}
    check_ids(list(found), served, "logit_bias")
    return found


def card(served: Served) -> dict[str, Any]:
    """Describe a model as OpenAI's list does, and by what the page needs to know."""
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "kiara",
        "context_length": served.context,
        "template": served.template.kind,
    }


def in_base64(vector: Sequence[float]) -> str:
    """Write floats as OpenAI's clients ask for them: little-endian, 4 bytes each."""
    return base64.b64encode(array("f", vector).tobytes()).decode()
