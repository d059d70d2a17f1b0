"""A job's chunks as OpenAI's JSON: whole replies, events of streams, log-probabilities.

In: chunks. Out: plain dicts and the texts of events.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from kiara_cli.core.generate.engine import Token
from kiara_cli.core.generate.text import Completion
from kiara_cli.core.serve.jobs import Chunk
from kiara_cli.core.serve.streaming import DONE, event
from kiara_cli.core.tokenizer.protocol import Tokenizer, incremental_decoder

Json: TypeAlias = dict[str, Any]
LEAST = -9999.0  # OpenAI's word for "never": JSON has no infinity


@dataclass(frozen=True)
class Endpoint:
    """How one of OpenAI's two endpoints shapes a choice."""

    prefix: str
    whole: str
    chunk: str
    choice: Callable[[int, str, Json | None, str | None], Json]
    delta: Callable[[int, str, Json | None, str | None], Json]
    logprobs: Callable[[Choice, Sequence[Token]], Json]
    opening: Callable[[int], Json] | None = None  # what a stream's choice begins with


@dataclass
class Choice:
    """One text as far as it has come."""

    tokenizer: Tokenizer
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    done: Completion | None = None
    _decoder: Any = field(default_factory=incremental_decoder)
    _offset: int = 0

    def step(self, token: Token) -> int:
        """Return where a token's text begins, and move on behind it."""
        begin = self._offset
        self._offset += len(self._decoder.decode(self.tokenizer.token_bytes(token.id)))
        return begin


@dataclass
class Reply:
    """The answer to one request. `n` texts belong to each prompt; `echo` holds the prompts to be sent back.

    With `echoed` their tokens are sent back too, scored.
    """

    endpoint: Endpoint
    model: str
    tokenizer: Tokenizer
    prompts: Sequence[int]  # their lengths in tokens
    n: int
    logprobs: bool
    echo: Sequence[str] = ()
    echoed: Sequence[Sequence[Token]] = ()
    extra: Json = field(default_factory=dict)  # Kiara's own
    last: Json = field(default_factory=dict)  # what of it a stream says again at its end

    def __post_init__(self) -> None:
        self.head: Json = {
            "id": f"{self.endpoint.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self.model,
        }
        self.choices = [Choice(self.tokenizer) for _ in range(self.n * len(self.prompts))]

    def whole(self, chunks: Iterable[Chunk]) -> Json:
        """Return the reply of a request that does not stream."""
        for chunk in chunks:
            choice = self.choices[chunk.index]
            choice.text += chunk.text
            choice.tokens += chunk.tokens
            choice.done = chunk.done or choice.done
        choices = []
        for index, choice in enumerate(self.choices):
            assert choice.done is not None
            tokens = [*self._echoed(index), *choice.tokens]
            logprobs = self.endpoint.logprobs(choice, tokens) if self.logprobs else None
            text = self._echo(index) + choice.text
            choices.append(self.endpoint.choice(index, text, logprobs, choice.done.finish_reason))
        head = {**self.head, "object": self.endpoint.whole}
        return {**head, "choices": choices, "usage": self.usage(), **own(self.extra)}

    async def stream(self, chunks: AsyncIterator[list[Chunk]], include_usage: bool) -> AsyncIterator[str]:
        """Yield the events of a request that streams."""
        head = {**self.head, "object": self.endpoint.chunk}
        rest: Json = {"usage": None} if include_usage else {}
        extra = own(self.extra)
        for index in range(len(self.choices)):
            if self.endpoint.opening is not None:
                yield event({**head, "choices": [self.endpoint.opening(index)], **rest, **extra})
                extra = {}
            elif self.echo:
                tokens = self._echoed(index)
                logprobs = self.endpoint.logprobs(self.choices[index], tokens) if tokens else None
                yield event(
                    {**head, "choices": [self.endpoint.delta(index, self._echo(index), logprobs, None)], **rest}
                )
        async for some in chunks:
            lines = []
            for index, text, tokens, done in joined(some):
                choice = self.choices[index]
                logprobs = self.endpoint.logprobs(choice, tokens) if self.logprobs and tokens else None
                choice.done = done or choice.done
                reason = done.finish_reason if done is not None else None
                if text or logprobs or reason:
                    last = own(self.last) if all(choice.done for choice in self.choices) else {}
                    delta = self.endpoint.delta(index, text, logprobs, reason)
                    lines.append(event({**head, "choices": [delta], **rest, **last}))
            if lines:
                yield "".join(lines)
        if include_usage:
            yield event({**head, "choices": [], "usage": self.usage()})
        yield DONE

    def usage(self) -> Json:
        """Count tokens: of each prompt once, and of all texts."""
        written = sum(choice.done.completion_tokens for choice in self.choices if choice.done is not None)
        read = sum(self.prompts)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def _echo(self, index: int) -> str:
        return self.echo[index // self.n] if self.echo else ""

    def _echoed(self, index: int) -> Sequence[Token]:
        return self.echoed[index // self.n] if self.echoed else ()


def own(values: Json) -> Json:
    """Return what is Kiara's own in a reply: one field, beside those that OpenAI's clients know."""
    return {"kiara": values} if values else {}


def joined(chunks: Iterable[Chunk]) -> Iterable[tuple[int, str, list[Token], Completion | None]]:
    """Put the chunks of each text together."""
    texts: dict[int, tuple[int, str, list[Token], Completion | None]] = {}
    for chunk in chunks:
        index, text, tokens, done = texts.get(chunk.index, (chunk.index, "", [], None))
        texts[index] = (index, text + chunk.text, [*tokens, *chunk.tokens], chunk.done or done)
    return texts.values()


def name_of(token: int, tokenizer: Tokenizer) -> str:
    """Return a token's text; a special one's name."""
    if token >= tokenizer.size:
        return ""
    text = tokenizer.token_bytes(token).decode("utf-8", errors="replace")
    return text or next((name for name, i in tokenizer.specials.items() if i == token), "")


def key_of(token: int, tokenizer: Tokenizer) -> str:
    """Return a name that no other token has: bytes that are no text as OpenAI writes them, `bytes:\\xe4`."""
    data = tokenizer.token_bytes(token) if token < tokenizer.size else b""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
    return name_of(token, tokenizer) or f"token_id:{token}"


def _entry(token: int, logprob: float | None, tokenizer: Tokenizer) -> Json:
    name = name_of(token, tokenizer)
    data = tokenizer.token_bytes(token) if token < tokenizer.size else b""
    return {"token": name, "logprob": _number(logprob), "bytes": list(data or name.encode())}


def _number(logprob: float | None) -> float:
    return LEAST if logprob is None else max(LEAST, logprob)


def _chat_logprobs(choice: Choice, tokens: Sequence[Token]) -> Json:
    tokenizer = choice.tokenizer
    content = [
        {
            **_entry(token.id, token.logprob, tokenizer),
            "top_logprobs": [_entry(id_, logprob, tokenizer) for id_, logprob in token.top],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _completion_logprobs(choice: Choice, tokens: Sequence[Token]) -> Json:
    return {
        "tokens": [key_of(token.id, choice.tokenizer) for token in tokens],
        "token_logprobs": [None if token.logprob is None else _number(token.logprob) for token in tokens],
        "top_logprobs": [_alternatives(token, choice.tokenizer) for token in tokens],
        "text_offset": [choice.step(token) for token in tokens],
    }


def _alternatives(token: Token, tokenizer: Tokenizer) -> dict[str, float] | None:
    """Return the likeliest tokens and, as OpenAI does, the one that was sampled; none for the first of a prompt."""
    if token.logprob is None:
        return None
    found: dict[str, float] = {}
    for id_, logprob in dict([*token.top, (token.id, token.logprob)]).items():
        key = key_of(id_, tokenizer)
        found[key if key not in found else f"token_id:{id_}"] = _number(logprob)
    return found


def _chat_choice(index: int, text: str, logprobs: Json | None, reason: str | None) -> Json:
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _chat_delta(index: int, text: str, logprobs: Json | None, reason: str | None) -> Json:
    return {
        "index": index,
        "delta": {"content": text} if text or logprobs else {},
        "logprobs": logprobs,
        "finish_reason": reason,
    }


def _chat_opening(index: int) -> Json:
    delta = {"role": "assistant", "content": ""}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _completion_choice(index: int, text: str, logprobs: Json | None, reason: str | None) -> Json:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


CHAT = Endpoint(
    "chatcmpl", "chat.completion", "chat.completion.chunk", _chat_choice, _chat_delta, _chat_logprobs, _chat_opening
)
COMPLETION = Endpoint(
    "cmpl", "text_completion", "text_completion", _completion_choice, _completion_choice, _completion_logprobs
)
