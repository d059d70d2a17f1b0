"""The JSON that comes in, as OpenAI's clients write it, with Kiara's own settings beside OpenAI's.

In: the object of a body. Out: a checked object; fields that nobody knows are ignored. What goes out is in shapes.py.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from kiara_cli.config.keys import limits
from kiara_cli.config.schema import GenerateConfig

HALF = "holds one half of a surrogate pair (such as \\ud83d), which is no character"


def _whole(text: str) -> str:
    """Refuse half a character: JSON can write one, UTF-8 cannot."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(HALF)
    return text


def _integral(number: Any) -> Any:
    """Take 4.0 for 4: JSON does not tell them apart."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _some(length: int) -> int:
    if not length:
        raise ValueError("must be at least 1; -1 or null means no limit")
    return length


Text: TypeAlias = Annotated[str, AfterValidator(_whole)]
Whole: TypeAlias = Annotated[int, BeforeValidator(_integral)]
Id: TypeAlias = Annotated[Whole, Field(ge=0, le=2**31)]
Ids: TypeAlias = Annotated[list[Id], Field(min_length=1)]
Texts: TypeAlias = Annotated[list[Text], Field(min_length=1)]
Prompts: TypeAlias = Text | Texts | Ids | Annotated[list[Ids], Field(min_length=1)]
Length: TypeAlias = Annotated[Whole, Field(ge=-1)]
Stop: TypeAlias = Annotated[str, Field(max_length=200), AfterValidator(_whole)]
Stops: TypeAlias = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_whole)]], Field(max_length=16)
]


def setting(name: str) -> Any:
    """Declare a field that may be left out, with the range that the setting of this name has in configs."""
    low, high, above = limits(f"generate.{name}")
    return Field(None, ge=low, le=high, gt=above)


class Body(BaseModel):
    """A body. Numbers are numbers: no strings that look like them, no NaN, no infinity."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=())

    def sent(self, *names: str) -> list[str]:
        """Return which of some fields the client sent, null or not."""
        return [name for name in names if name in self.model_fields_set]


class Settings(Body):
    """How to write; what is left out is what the server's config says. `top_k`, `min_p` and `repetition_penalty` are
    not OpenAI's; a `top_k` of 0 or -1 chooses among all tokens."""

    temperature: float | None = setting("temperature")
    top_p: float | None = setting("top_p")
    top_k: Whole | None = Field(None, ge=-1)
    min_p: float | None = setting("min_p")
    repetition_penalty: float | None = setting("repetition_penalty")
    presence_penalty: float | None = setting("presence_penalty")
    frequency_penalty: float | None = setting("frequency_penalty")
    seed: Whole | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: Stop | Stops | None = None

    def config(self, base: GenerateConfig, max_new_tokens: int) -> GenerateConfig:
        """Return the settings of one text, on top of the server's own."""
        names = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
        chosen: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.top_k is not None:
            chosen["top_k"] = self.top_k if self.top_k > 0 else None
        if self.seed is not None:
            chosen["seed"] = self.seed % 2**63
        if self.sent("stop"):
            stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
            chosen["stop"] = tuple(dict.fromkeys(stop for stop in stops if stop))
        return dataclasses.replace(base, max_new_tokens=max_new_tokens, **chosen)


class StreamOptions(Body):
    include_usage: bool | None = None


class NamedSchema(Body):
    """A JSON schema as OpenAI wraps it. It is kept to the letter, whatever `strict` says."""

    name: Text | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """What a text has to be; with a `schema` beside `json_object`, as other servers know it, JSON of that schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class OpenAISettings(Settings):
    """What completions and chat share."""

    model: Text | None = None
    n: Whole | None = Field(None, ge=1, le=1024)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None


class CompletionBody(OpenAISettings):
    """Asks for texts to be continued. `max_tokens` of 0 with `echo` and `logprobs` scores the prompts alone."""

    prompt: Prompts | None = ""
    max_tokens: Length | None = None
    logprobs: Whole | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    suffix: Text | None = None
    best_of: Whole | None = Field(None, ge=1, le=1024)
    knowledge: Any = None


class ContentPart(Body):
    type: Text
    text: Text | None = None
    refusal: Text | None = None


class MessageBody(Body):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Text | ContentPart] | None = None
    tool_calls: list[Any] | None = None


class ChatBody(OpenAISettings):
    """Asks for a reply, or with `continue_final_message` for more of a last message of the assistant.

    `knowledge` names an index that the server opened: passages of it stand before the newest question.
    """

    knowledge: Text | bool | None = None
    messages: Annotated[list[MessageBody], Field(min_length=1)]
    max_tokens: Annotated[Length, AfterValidator(_some)] | None = None
    max_completion_tokens: Annotated[Length, AfterValidator(_some)] | None = None
    logprobs: bool | None = None
    top_logprobs: Whole | None = Field(None, ge=0, le=20)
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


class WhyBody(Body):
    """Asks why the assistant's last message says what it says. `passages`: what its sources call `read`."""

    passages: list[Text] | None = None
    model: Text | None = None
    messages: Annotated[list[MessageBody], Field(min_length=1)]


class EmbeddingBody(Body):
    model: Text | None = None
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Whole | None = Field(None, ge=1)


class GenerateBody(Settings):
    """Asks for a text to be continued, or with `knowledge` for an answer to a question."""

    knowledge: Text | bool | None = None
    prompt: Text = ""
    max_new_tokens: Annotated[Length, AfterValidator(_some)] | None = None
    stream: bool | None = None


class TokenizeBody(Body):
    """A text; as vLLM's clients call it, a `prompt`."""

    text: Text | None = None
    prompt: Text | None = None


class DetokenizeBody(Body):
    """Ids; as vLLM's clients call them, `tokens`."""

    ids: list[Id] | None = None
    tokens: list[Id] | None = None
