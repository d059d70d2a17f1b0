"""The JSON that goes out, for the OpenAPI document: what is sent is built as plain dicts, which is faster.

In: nothing. Out: the shapes of replies. What comes in is in bodies.py.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import BaseModel

Finish: TypeAlias = Literal["stop", "length"]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Error(BaseModel):
    """Every refusal, in OpenAI's shape."""

    error: ErrorDetail


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Finish | None


class Completions(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class ReplyMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: ReplyMessage
    logprobs: dict[str, Any] | None
    finish_reason: Finish


class PassageSource(BaseModel):
    number: int
    place: str  # file, headings and lines, as people write them
    file: str
    heading: list[str]
    first_line: int
    last_line: int
    text: str  # the whole passage
    read: str  # what the model read of it


class Own(BaseModel):
    forgotten_turns: int | None = None  # what of the conversation did not fit into the context
    knowledge: str | None = None  # the index that the passages are from
    sources: list[PassageSource] | None = None


class Chat(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    kiara: Own | None = None


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(BaseModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: dict[str, int]


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int
    template: Literal["conversation", "imported", "transcript"]
    knowledge: list[str]  # indexes that a chat may name


class Models(BaseModel):
    object: Literal["list"]
    data: list[ModelCard]


class Generated(BaseModel):
    text: str
    finish_reason: Finish
    prompt_tokens: int
    completion_tokens: int
    tokens_per_second: float
    knowledge: str | None = None
    sources: list[PassageSource] | None = None


class Weighed(BaseModel):
    token: str
    probability: float


class Source(BaseModel):
    position: int  # of the token, counted from the beginning of what the model read
    token: str
    logit: float  # what the heads that look there add to the logit by themselves


class Explained(BaseModel):
    token: str
    bytes: list[int]
    position: int
    probability: float
    rank: int
    top: list[Weighed]
    sources: list[Source]


class Whys(BaseModel):
    tokens: list[Explained]
    start: int  # position of the first of them


class Health(BaseModel):
    status: Literal["ok", "stopping", "failed"]
    live: bool
    ready: bool
    model: str
    context_length: int
    template: Literal["conversation", "imported", "transcript"]
    knowledge: list[str]  # indexes that a chat may name
    consulted: str | None  # the one that a chat is answered from if it names none
    decoding: str  # what makes the decode steps, C or PyTorch, and why nothing faster does
    uptime_seconds: float
    version: str


class Tokenized(BaseModel):
    ids: list[int]
    tokens: list[int]  # the same, as vLLM calls them
    count: int
    max_model_len: int


class Plain(BaseModel):
    text: str
    prompt: str  # the same, as vLLM calls it


class TokenizerInfo(BaseModel):
    tokenizer_class: str
    eos_token: str
    bos_token: str
    max_model_len: int
