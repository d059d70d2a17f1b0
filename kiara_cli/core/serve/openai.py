"""The routes under /v1, as OpenAI's clients expect them.

In: bodies. Out: replies of `replies`, whole or streamed.
"""

from __future__ import annotations

import asyncio
import base64
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from kiara_cli.core.generate.embed import embed
from kiara_cli.core.generate.engine import GenerationRequest, Token
from kiara_cli.core.generate.grammar import Grammar
from kiara_cli.core.generate.score import Scorer
from kiara_cli.core.generate.text import Completion
from kiara_cli.core.serve import replies, shapes
from kiara_cli.core.serve.admission import Admission, Admitting
from kiara_cli.core.serve.bodies import ChatBody, CompletionBody, EmbeddingBody, OpenAISettings
from kiara_cli.core.serve.jobs import Chunk, Following
from kiara_cli.core.serve.knowledge import find_knowledge, record
from kiara_cli.core.serve.prompts import (
    bias,
    plain_ids,
    read_chat,
    read_format,
    read_prompts,
    repeated,
    settings_for,
    text_of,
)
from kiara_cli.core.serve.refusals import Refusal
from kiara_cli.core.serve.served import Served
from kiara_cli.core.serve.streaming import Stream, at_once, chunks_of, collect, while_connected
from kiara_cli.core.serve.validation import JsonRoute
from kiara_cli.core.serve.worker import Worker
from kiara_cli.core.tokenizer.protocol import decode, prompt_ids

COMPILING = ThreadPoolExecutor(1, "schemas")  # large schemas keep each other waiting, and nobody else

router = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=JsonRoute)


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
    """Continue texts, or ids; an empty prompt starts a document. `echo` with `logprobs` scores the prompts."""
    served = admission.find(body.model)
    if body.suffix:
        raise Refusal(400, "this server does not write before a suffix; leave suffix out", "suffix")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise Refusal(400, "this server does not choose the best of several texts; leave best_of out", "best_of")
    if body.knowledge:
        raise Refusal(400, "knowledge goes with /v1/chat/completions and /generate; leave it out here", "knowledge")
    prompts = await asyncio.to_thread(read_prompts, body.prompt, served, "prompt", prompt_ids)
    length = admission.length(body, ["max_tokens"], served.settings.max_new_tokens)
    grammar = await compiled(body, served)
    config = body.config(settings_for(grammar, served), max(1, length))
    read = [ids or [served.tokenizer.start] for ids in prompts]
    biases, ends = bias(body, served), served.ends | served.tokenizer.ends
    requests = repeated(
        [GenerationRequest(ids, config, ends, biases, body.logprobs, grammar) for ids in read], body.n
    )
    admission.check_choices(body, len(requests))
    texts = [decode(served.tokenizer, ids) for ids in prompts] if body.echo or admission.limits.log_prompts else []
    admission.log_prompt(request, "\n".join(texts))
    scored: list[Sequence[Token]] = []
    if body.echo and body.logprobs is not None:
        scored = await while_connected(request, score(admission.worker, served, read, body.logprobs))
    reply = replies.Reply(
        replies.COMPLETION, served.name, served.tokenizer, [len(ids) for ids in read], body.n or 1,
        body.logprobs is not None, texts if body.echo else (), scored,
    )  # fmt: skip
    if not length:
        return unwritten(body, reply, len(requests))
    return await answer(body, request, admission, served, requests, reply, show_end=bool(scored))


@router.post("/chat/completions", responses=streams(shapes.Chat))
async def chat(body: ChatBody, request: Request, admission: Admitting) -> Response:
    """Reply in a conversation, or continue a last message of the assistant (`continue_final_message`).

    What no longer fits into the context is forgotten, oldest turns first; the field `kiara` then says how many. With
    `knowledge` it holds the sources of the reply, in a stream in the first event and again in the last.
    """
    served = admission.find(body.model)
    check_chat(body, admission.limits.max_messages)
    names = ["max_completion_tokens", "max_tokens"]
    grammar = await compiled(body, served)
    length = admission.length(body, names, served.chat.max_new_tokens)
    config = body.config(settings_for(grammar, served), length)
    knowledge = find_knowledge(body.knowledge, served, by_default=True)
    planned, first, forgot, grounded = await asyncio.to_thread(read_chat, body, served, config, grammar, knowledge)
    if admission.limits.log_prompts:
        admission.log_prompt(request, "\n".join(text_of(message, "messages") for message in body.messages))
    found = {} if knowledge is None else record(knowledge, grounded)
    extra = ({"forgotten_turns": forgot.turns} if forgot else {}) | found
    reply = replies.Reply(
        replies.CHAT,
        served.name,
        served.tokenizer,
        [len(first.prompt)],
        body.n or 1,
        bool(body.logprobs),
        extra=extra,
        last=found,
    )
    requests = repeated([first], body.n)
    admission.check_choices(body, len(requests))
    return await answer(body, request, admission, served, requests, reply, planned.following)


@router.post("/embeddings", response_model=shapes.Embeddings)
async def embeddings(body: EmbeddingBody, request: Request, admission: Admitting) -> JSONResponse:
    """Turn texts into vectors of length 1: the mean of the model's last states."""
    served = admission.find(body.model)
    width = served.engine.config.emb_dim
    if body.dimensions not in (None, width):
        raise Refusal(400, f"this model's vectors have {width} dimensions; leave dimensions out", "dimensions")
    texts = await asyncio.to_thread(read_prompts, body.input, served, "input", plain_ids)
    if len(texts) > admission.limits.max_inputs:
        raise Refusal(400, f"{len(texts)} texts; this server embeds at most {admission.limits.max_inputs}", "input")
    if not all(texts):
        raise Refusal(400, "an empty text has no vector", "input")
    vectors = await while_connected(request, embed_all(admission.worker, served, texts))
    floats = body.encoding_format != "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": vector if floats else in_base64(vector)}
        for index, vector in enumerate(vectors)
    ]
    read = sum(map(len, texts))
    usage = {"prompt_tokens": read, "total_tokens": read}
    return JSONResponse({"object": "list", "data": data, "model": served.name, "usage": usage})


def check_chat(body: ChatBody, most: int) -> None:
    """Refuse what no model here can do."""
    if len(body.messages) > most:
        raise Refusal(400, f"{len(body.messages)} messages; this server reads at most {most}", "messages")
    for name, choice in (("tools", "tool_choice"), ("functions", "function_call")):
        if getattr(body, name) and getattr(body, choice) != "none":
            raise Refusal(400, f'this server\'s models call no {name}; leave {name} out, or {choice}="none"', name)
    if body.top_logprobs and not body.logprobs:
        raise Refusal(400, "top_logprobs needs logprobs to be true", "top_logprobs")


async def embed_all(worker: Worker, served: Served, texts: Sequence[list[int]]) -> list[list[float]]:
    """Return the vector of each text."""
    return [await worker.call(partial(embed, served.engine, ids)) for ids in texts]


async def score(
    worker: Worker, served: Served, prompts: Sequence[list[int]], alternatives: int
) -> list[Sequence[Token]]:
    """Return the tokens of each prompt with their probabilities, read between the tokens of other requests."""
    scored: list[Sequence[Token]] = []
    for ids in prompts:
        scorer = Scorer(served.engine, ids, alternatives)
        while not scorer.done:
            await worker.call(scorer.step)
        scored.append(scorer.tokens)
    return scored


async def compiled(body: OpenAISettings, served: Served) -> Grammar | None:
    """Return the grammar of the JSON that is asked for, if it is. Raises Refusal."""
    if body.response_format is None:
        return None
    return await asyncio.get_running_loop().run_in_executor(COMPILING, read_format, body, served)


def unwritten(body: OpenAISettings, reply: replies.Reply, number: int) -> Response:
    """Answer a request that wants no tokens, but its prompts perhaps."""
    lengths = [length for length in reply.prompts for _ in range(reply.n)]
    chunks = [Chunk(i, "", (), Completion("", "length", lengths[i], 0, 0.0, 0.0)) for i in range(number)]
    if not body.stream:
        return JSONResponse(reply.whole(chunks))
    return Stream(reply.stream(at_once(chunks), includes_usage(body)))


async def answer(
    body: OpenAISettings,
    request: Request,
    admission: Admission,
    served: Served,
    requests: Sequence[GenerationRequest],
    reply: replies.Reply,
    following: Following | None = None,
    show_end: bool = False,
) -> Response:
    """Run generations, and send the reply whole or as it comes."""
    job = admission.submit(request, served, requests, bool(body.stream), following, show_end)
    if not body.stream:
        return JSONResponse(reply.whole(await collect(admission.worker, request, job)))
    chunks = chunks_of(job, admission.limits.stream_interval_ms / 1000)
    return Stream(reply.stream(chunks, includes_usage(body)), partial(admission.worker.cancel, job))


def includes_usage(body: OpenAISettings) -> bool:
    return bool(body.stream_options and body.stream_options.include_usage)


def card(served: Served) -> dict[str, Any]:
    """Describe a model as OpenAI's list does, and by what the page needs to know."""
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "kiara",
        "context_length": served.context,
        "template": served.template.kind,
        "knowledge": list(served.knowledge),
    }


def in_base64(vector: Sequence[float]) -> str:
    """Write floats as OpenAI's clients ask for them: little-endian, 4 bytes each."""
    return base64.b64encode(array("f", vector).tobytes()).decode()
