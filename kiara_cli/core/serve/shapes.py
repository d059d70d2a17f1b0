"""The JSON that comes in and goes out, as OpenAI writes it, with Kiara's own settings beside OpenAI's.

In: a body. Out: a checked object; fields that nobody knows are ignored. The replies stand here for the OpenAPI
document: what is sent is built as plain dicts, which is faster.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from kiara_cli.config.schema import GenerateConfig


def _whole(text: str) -> str:
    """Refuse half a character: JSON can write one, UTF-8 cannot."""
    text.encode("utf-8")  # UnicodeEncodeError is a ValueError, which pydantic reports
    return text


def _integral(number: Any) -> Any:
    """Take 4.0 for 4: JSON does not tell them apart."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


Text: TypeAlias = Annotated[str, AfterValidator(_whole)]
Whole: TypeAlias = Annotated[int, BeforeValidator(_integral)]
Id: TypeAlias = Annotated[Whole, Field(ge=0, le=2**31)]
Ids: TypeAlias = Annotated[list[Id], Field(min_length=1)]
Stop: TypeAlias = Annotated[Text, Field(min_length=1, max_length=200)]
Finish: TypeAlias = Literal["stop", "length"]


class Shape(BaseModel):
    """A body. Numbers are numbers: no NaN, no infinity."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=())


class Settings(Shape):
    """How to write; what is left out is what the server's config says. `top_k`, `min_p` and `repetition_penalty` are
    not OpenAI's."""

    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: Whole | None = Field(None, ge=1, le=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: Whole | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None

    def config(self, base: GenerateConfig, max_new_tokens: int, stop: tuple[str, ...] = ()) -> GenerateConfig:
        """Return the settings of one text, on top of the server's own."""
        names = (
            "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
        )  # fmt: skip
        chosen: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.seed is not None:
            chosen["seed"] = self.seed % 2**63
        if self.stop is not None:
            chosen["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        stops = tuple(dict.fromkeys((*chosen.pop("stop", base.stop), *stop)))
        return dataclasses.replace(base, max_new_tokens=max_new_tokens, stop=stops, **chosen)


class StreamOptions(Shape):
    include_usage: bool | None = None


class OpenAISettings(Settings):
    """What completions and chat share."""

    model: Text | None = None
    n: Whole | None = Field(None, ge=1, le=1024)
    max_tokens: Whole | None = Field(None, ge=1, le=2**31)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class CompletionBody(OpenAISettings):
    prompt: Text | Annotated[list[Text], Field(min_length=1)] | Ids | Annotated[list[Ids], Field(min_length=1)] = ""
    logprobs: Whole | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    suffix: Text | None = None
    best_of: Whole | None = Field(None, ge=1, le=1024)


class ContentPart(Shape):
    type: Text
    text: Text | None = None


class MessageBody(Shape):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[ContentPart] | None = None


class ChatBody(OpenAISettings):
    messages: Annotated[list[MessageBody], Field(min_length=1)]
    max_completion_tokens: Whole | None = Field(None, ge=1, le=2**31)
    logprobs: bool | None = None
    top_logprobs: Whole | None = Field(None, ge=0, le=20)
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None


class EmbeddingBody(Shape):
    model: Text | None = None
    input: Text | Annotated[list[Text], Field(min_length=1)] | Ids | Annotated[list[Ids], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Whole | None = Field(None, ge=1)


class GenerateBody(Settings):
    prompt: Text = ""
    max_new_tokens: Whole | None = Field(None, ge=1, le=2**31)
    stream: bool = False


class TokenizeBody(Shape):
    text: Text


class DetokenizeBody(Shape):
    ids: list[Id]


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


class Chat(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    kiara: dict[str, int] | None = None  # what of the conversation did not fit into the context


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
    template: Literal["conversation", "transcript"]


class Models(BaseModel):
    object: Literal["list"]
    data: list[ModelCard]


class Generated(BaseModel):
    text: str
    finish_reason: Finish
    prompt_tokens: int
    completion_tokens: int
    tokens_per_second: float


class Health(BaseModel):
    status: Literal["ok", "stopping", "failed"]
    live: bool
    ready: bool
    model: str
    context_length: int
    template: Literal["conversation", "transcript"]
    uptime_seconds: float
    version: str


class Tokenized(BaseModel):
    ids: list[int]
    count: int


class Plain(BaseModel):
    text: str
