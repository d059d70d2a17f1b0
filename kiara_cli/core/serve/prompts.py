"""What a request's prompt or conversation is to the model.

In: checked bodies. Out: ids, and the requests to the engine. Raises Refusal for what the model cannot read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.chat.answered import answered
from kiara_cli.core.chat.fit import Forgot, prompt_budget
from kiara_cli.core.chat.knowledge import as_read, newest_question
from kiara_cli.core.chat.reply import ReplyRequest
from kiara_cli.core.generate.engine import GenerationRequest
from kiara_cli.core.generate.grammar import ANY_OBJECT, Grammar
from kiara_cli.core.retrieve.prompt import Grounded, Knowledge
from kiara_cli.core.serve.admission import check_ids, check_prompt
from kiara_cli.core.serve.bodies import ChatBody, ContentPart, MessageBody, OpenAISettings, WhyBody
from kiara_cli.core.serve.knowledge import consult_for
from kiara_cli.core.serve.refusals import Refusal
from kiara_cli.core.serve.served import Served
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.passages import with_passages
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError

ROLES = {"developer": "system", "tool": "user", "function": "user"}  # as the model knows them
TEXTS = ("text", "input_text", "output_text")


def read_prompts(
    given: str | list[str] | list[int] | list[list[int]] | None,
    served: Served,
    param: str,
    encode: Callable[[Tokenizer, str], list[int]],
) -> list[list[int]]:
    """Return the ids of each prompt. Raises Refusal for one that is too long, or holds unknown ids."""
    several = given if isinstance(given, list) and isinstance(given[0], str | list) else [given or ""]
    out = []
    for prompt in several:
        ids = encode(served.tokenizer, prompt) if isinstance(prompt, str) else list(prompt)
        check_prompt(ids, served, param)
        out.append(ids)
    return out


def plain_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a text, and nothing that stands before it."""
    return tokenizer.encode(text)


def read_chat(
    body: ChatBody,
    served: Served,
    config: GenerateConfig,
    grammar: Grammar | None = None,
    knowledge: Knowledge | None = None,
) -> tuple[ReplyRequest, GenerationRequest, Forgot | None, Grounded | None]:
    """Return the reply that is asked for, its first request, what of the conversation was left out, and the question
    with its passages."""
    system, turns = parted(body.messages)
    own = not system and bool(served.chat.system)
    if own:
        system = [{"role": "system", "content": served.chat.system or ""}]
    if grammar is not None and goes_on(body):
        raise Refusal(
            400, "JSON begins at its beginning: continue_final_message goes on with a text", "response_format"
        )
    try:
        grounded = consult_for(knowledge, served, system, turns, config.max_new_tokens, goes_on(body))
        reply = ReplyRequest(
            served.template, system, as_read(turns, grounded), served.context, config, goes_on(body),
            bias(body, served), (body.top_logprobs or 0) if body.logprobs else None, grammar,
        )  # fmt: skip
        first, forgot = reply.first()
    except KiaraError as error:  # the model's own template
        raise Refusal(400, f"{error.cause}; {error.remedy}", "messages") from None
    if forgot is not None:
        check_forgotten(forgot, own, served.context, config.max_new_tokens)
    return reply, first, forgot, grounded


def parted(messages: Sequence[MessageBody]) -> tuple[list[Message], list[Message]]:
    """Return the system messages that a conversation opens with, and its turns, with roles that the model knows."""
    found: list[Message] = [
        {"role": ROLES.get(message.role, message.role), "content": text_of(message, f"messages[{number}]")}
        for number, message in enumerate(messages)
    ]
    opening = next((i for i, m in enumerate(found) if m["role"] != "system"), len(found) - 1)
    return found[:opening], found[opening:]


def read_answered(body: WhyBody, served: Served) -> tuple[list[int], int]:
    """Return the ids of a conversation that ends in a reply, and where it begins. Raises Refusal."""
    system, turns = parted(body.messages)
    if body.passages and (place := newest_question(turns)) is not None:
        turns = as_read(turns, Grounded(with_passages(turns[place]["content"], body.passages)))
    if not system and served.chat.system:
        system = [{"role": "system", "content": served.chat.system}]
    try:
        return answered(served.template, system, turns, served.context)
    except KiaraError as error:
        raise Refusal(400, f"{error.cause}; {error.remedy}", "messages") from None


def check_forgotten(forgot: Forgot, own: bool, context: int, length: int) -> None:
    """Refuse what cannot be left out without a word: the system message, or a part of the last message."""
    if forgot.system:
        whose = "the server's own system prompt (chat.system)" if own else "the system message"
        remedy = "send a shorter system message instead of it" if own else "shorten it"
        raise Refusal(
            400,
            f"{whose} is {forgot.system} tokens long, too long for this model, which reads {context} tokens in all; "
            f"{remedy}",
            "messages",
            "context_length_exceeded",
        )
    if forgot.tokens:
        most = prompt_budget(context, length)
        raise Refusal(
            400,
            f"the last message is {forgot.tokens} tokens longer than what this model reads at once, {most} with the "
            "system message; shorten it",
            "messages",
            "context_length_exceeded",
        )


def goes_on(body: ChatBody) -> bool:
    """Say whether the last message is to be continued. Raises Refusal if it is not the assistant's."""
    if not body.continue_final_message and body.add_generation_prompt is not False:
        return False
    name = "continue_final_message" if body.continue_final_message else "add_generation_prompt"
    if body.messages[-1].role != "assistant":
        raise Refusal(
            400,
            f"{name} asks for more of a last message of the assistant; the last one is of role "
            f"{body.messages[-1].role!r}",
            name,
        )
    return True


def text_of(message: MessageBody, place: str) -> str:
    """Return a message's text, calls of tools included. Raises Refusal for pictures and the like."""
    content = message.content
    if isinstance(content, list):
        content = "".join(text_of_part(part, f"{place}.content[{i}]") for i, part in enumerate(content))
    calls = [text_of_call(call) for call in message.tool_calls or ()]
    return "\n".join(filter(None, [content, *calls]))


def text_of_part(part: str | ContentPart, place: str) -> str:
    """Return the text of a part. Raises Refusal for one that is no text."""
    if isinstance(part, str):
        return part
    if part.type == "refusal":
        return part.refusal or ""
    if part.type not in TEXTS:
        raise Refusal(400, f"{place} is of type {part.type[:50]!r}; this server reads text alone", place)
    if part.text is None:
        raise Refusal(400, f"{place}.text is missing", f"{place}.text")
    return part.text


def text_of_call(call: Any) -> str:
    """Return a call of a tool as text: name and arguments."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return ""
    arguments = function.get("arguments") or ""
    text = f"{function.get('name')}({arguments if isinstance(arguments, str) else json.dumps(arguments)})"
    return text.encode("utf-8", "replace").decode()  # nobody has checked it for halves of characters


def bias(body: OpenAISettings, served: Served) -> Mapping[int, float]:
    """Return what is added to the scores of ids. Raises Refusal for ids that do not exist."""
    given = body.logit_bias or {}
    if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in given):
        raise Refusal(400, "logit_bias is a map from token ids to numbers", "logit_bias")
    found = {int(key): value for key, value in given.items()}
    check_ids(list(found), served, "logit_bias")
    return found


def read_format(body: OpenAISettings, served: Served) -> Grammar | None:
    """Return the grammar of the JSON that is asked for; None where any text will do. Raises Refusal."""
    asked = body.response_format
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_schema" and asked.json_schema is None:
        raise Refusal(400, "response_format.json_schema is missing", "response_format.json_schema")
    if body.sent("stop") and body.stop:
        raise Refusal(400, "a stop text could cut the JSON of response_format; leave stop out", "stop")
    schema = asked.json_schema.schema_ if asked.json_schema is not None else asked.schema_ or ANY_OBJECT
    try:
        return served.grammars.compile(schema)
    except KiaraError as error:
        raise Refusal(400, f"{error.cause}; {error.remedy}", "response_format") from None


def settings_for(grammar: Grammar | None, served: Served) -> GenerateConfig:
    """Return the server's own settings; its stop texts must not cut JSON."""
    return served.settings if grammar is None else dataclasses.replace(served.settings, stop=())


def repeated(requests: Sequence[GenerationRequest], n: int | None) -> list[GenerationRequest]:
    """Ask for each generation n times, with seeds in a row."""

    def again(request: GenerationRequest, i: int) -> GenerationRequest:
        seed = request.config.seed
        if seed is None or not i:
            return request
        return dataclasses.replace(request, config=dataclasses.replace(request.config, seed=(seed + i) % 2**63))

    return [again(request, i) for request in requests for i in range(n or 1)]
