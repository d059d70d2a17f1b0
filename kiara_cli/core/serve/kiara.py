"""Kiara's own routes: a simple way to generate, the tokenizer, health, metrics, the page.

In: requests. Out: JSON with the names that the commands use; one HTML file.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from kiara_cli.core.generate.engine import GenerationRequest
from kiara_cli.core.generate.text import Completion
from kiara_cli.core.lab.inspect.prompted import label
from kiara_cli.core.lab.inspect.why import Explainer, Why
from kiara_cli.core.serve import shapes
from kiara_cli.core.serve.admission import Admission, Admitting, check_ids, check_prompt
from kiara_cli.core.serve.bodies import DetokenizeBody, GenerateBody, TokenizeBody, WhyBody
from kiara_cli.core.serve.jobs import Chunk
from kiara_cli.core.serve.knowledge import find_knowledge, read_question
from kiara_cli.core.serve.openai import streams
from kiara_cli.core.serve.prompts import read_answered
from kiara_cli.core.serve.refusals import Refusal
from kiara_cli.core.serve.replies import name_of
from kiara_cli.core.serve.streaming import Stream, chunks_of, collect, event, while_connected
from kiara_cli.core.serve.validation import JsonRoute
from kiara_cli.core.serve.worker import Worker
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, Tokenizer, decode

router = APIRouter(route_class=JsonRoute)
PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")


def _hash(tag: str) -> str:
    """Return the hash of what stands inside a tag of the page, as a Content-Security-Policy names it."""
    inside = PAGE.split(f"<{tag}>", 1)[1].split(f"</{tag}>", 1)[0]
    return "'sha256-" + base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode() + "'"


POLICY = (
    f"default-src 'none'; script-src {_hash('script')}; style-src {_hash('style')}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


@router.post("/generate", tags=["Kiara"], responses=streams(shapes.Generated))
async def generate(body: GenerateBody, request: Request, admission: Admitting) -> Response:
    """Continue a text; an empty prompt starts a document. Streams `{"text"}` by flag; the last event is the rest.

    With `knowledge` the prompt is a question, and the rest holds the passages that stood before it.
    """
    served = admission.find(None)
    knowledge = find_knowledge(body.knowledge, served, by_default=False)
    length = admission.length(body, ["max_new_tokens"], served.settings.max_new_tokens)
    ids, more = await asyncio.to_thread(read_question, body.prompt, served, length, knowledge)
    check_prompt(ids, served, "prompt")
    admission.log_prompt(request, body.prompt)
    ends = served.ends | served.tokenizer.ends | (served.template.stop_ids if knowledge else frozenset())
    generation = GenerationRequest(ids, body.config(served.settings, length), ends)
    job = admission.submit(request, served, [generation], bool(body.stream))
    if body.stream:
        chunks = chunks_of(job, admission.limits.stream_interval_ms / 1000)
        return Stream(pieces(chunks, more), partial(admission.worker.cancel, job))
    done = (await collect(admission.worker, request, job))[-1].done
    assert done is not None
    return JSONResponse({"text": done.text, **facts(done), **more})


async def pieces(chunks: AsyncIterator[list[Chunk]], more: dict[str, Any]) -> AsyncIterator[str]:
    """Yield the events of a text; the last holds `more`."""
    async for some in chunks:
        text = "".join(chunk.text for chunk in some)
        if text:
            yield event({"text": text})
        if some[-1].done is not None:
            yield event({**facts(some[-1].done), **more})


def facts(done: Completion) -> dict[str, Any]:
    """Return what `kiara generate --json` says beside the text."""
    return {
        "finish_reason": done.finish_reason,
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "tokens_per_second": round(done.tokens_per_second, 1),
    }


@router.post("/tokenize", tags=["Kiara"], response_model=shapes.Tokenized)
async def tokenize(body: TokenizeBody, admission: Admitting) -> JSONResponse:
    """Turn text into ids. A `prompt` that is a special token's name, and nothing else, is that token: so clients of
    vLLM, lm-evaluation-harness among them, ask for the id of `eos_token`."""
    served = admission.worker.served
    text = body.text if body.text is not None else body.prompt
    if text is None:
        raise Refusal(400, "text is missing", "text")
    special = served.tokenizer.specials.get(text) if body.text is None else None
    ids = [special] if special is not None else await asyncio.to_thread(served.tokenizer.encode, text)
    return JSONResponse({"ids": ids, "tokens": ids, "count": len(ids), "max_model_len": served.context})


@router.post("/detokenize", tags=["Kiara"], response_model=shapes.Plain)
async def detokenize(body: DetokenizeBody, admission: Admitting) -> JSONResponse:
    """Turn ids into text."""
    served = admission.worker.served
    ids, name = (body.ids, "ids") if body.ids is not None else (body.tokens, "tokens")
    if ids is None:
        raise Refusal(400, "ids is missing", "ids")
    check_ids(ids, served, name)
    text = await asyncio.to_thread(decode, served.tokenizer, ids)
    return JSONResponse({"text": text, "prompt": text})


@router.get("/tokenizer_info", tags=["Kiara"], response_model=shapes.TokenizerInfo)
async def tokenizer_info(admission: Admitting) -> JSONResponse:
    """Describe the tokenizer as vLLM does: lm-evaluation-harness then uses it through /tokenize."""
    served = admission.worker.served
    start = name_of(served.tokenizer.start, served.tokenizer)
    about = {"tokenizer_class": served.tokenizer.kind, "eos_token": END_OF_TEXT, "bos_token": start or END_OF_TEXT}
    return JSONResponse({**about, "max_model_len": served.context})


@router.post("/why", tags=["Kiara"], response_model=shapes.Whys)
async def why(body: WhyBody, request: Request, admission: Admitting) -> JSONResponse:
    """Explain a last message of the assistant token by token: what else was likely, and what it leaned on."""
    served = admission.find(body.model)
    if len(body.messages) > admission.limits.max_messages:
        most = admission.limits.max_messages
        raise Refusal(400, f"{len(body.messages)} messages; this server reads at most {most}", "messages")
    ids, start = await asyncio.to_thread(read_answered, body, served)
    explainer = Explainer(served.engine.original, ids, start)
    await while_connected(request, in_steps(admission.worker, explainer))
    tokens = [explained(served.tokenizer, ids, one) for one in explainer.whys]
    return JSONResponse({"tokens": tokens, "start": start})


async def in_steps(worker: Worker, explainer: Explainer) -> None:
    """Explain between the tokens of other requests."""
    while not explainer.done:
        await worker.call(explainer.step)


def explained(tokenizer: Tokenizer, ids: Sequence[int], one: Why) -> dict[str, Any]:
    """Return what is known of a token as JSON values."""
    return {
        "token": label(tokenizer, one.token),
        "bytes": list(tokenizer.token_bytes(one.token)),
        "position": one.position,
        "probability": one.probability,
        "rank": one.rank,
        "top": [{"token": label(tokenizer, token), "probability": share} for token, share in one.top],
        "sources": [
            {"position": place, "token": label(tokenizer, ids[place]), "logit": value} for place, value in one.sources
        ],
    }


@router.get("/health", tags=["Kiara"], response_model=shapes.Health, responses={503: {"model": shapes.Health}})
async def health(admission: Admitting) -> JSONResponse:
    """Say whether the server lives and takes requests: 200 if it does, else 503."""
    return JSONResponse(state_of(admission), 200 if admission.worker.ready else 503)


def state_of(admission: Admission) -> dict[str, Any]:
    """Describe the server's health."""
    worker, served = admission.worker, admission.worker.served
    try:
        ours = version("kiara-slm")
    except PackageNotFoundError:
        ours = "from source"
    return {
        "status": "ok" if worker.ready else "stopping" if worker.alive else "failed",
        "live": worker.alive,
        "ready": worker.ready,
        "model": served.name,
        "context_length": served.context,
        "template": served.template.kind,
        "knowledge": list(served.knowledge),
        "consulted": served.consulted,
        "decoding": served.engine.backend.name,
        "uptime_seconds": round(time.monotonic() - admission.began, 3),
        "version": ours,
    }


@router.get("/metrics", tags=["Kiara"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(admission: Admitting) -> Response:
    """Say what Prometheus wants to know."""
    return Response(admission.worker.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", include_in_schema=False)
async def page() -> HTMLResponse:
    """Send the chat page."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})
