"""The formats in which people keep conversations, instructions and preferences → messages.

In: the fields of a record. Out: a `Talk`, or nothing for a record of none of these formats.

| format                  | fields                                                                             |
|-------------------------|------------------------------------------------------------------------------------|
| OpenAI                  | messages: [{role, content}]                                                        |
| ShareGPT                | conversations: [{from, value}], or with role and content; system                   |
| preferences             | prompt (a text or messages) or messages; chosen and rejected (each the same)       |
| Alpaca                  | instruction, input (may be missing or empty), output; system                       |
| request and reply       | prompt and completion, prompt and response, question and answer, input and output  |
| names of a person's own | data.prompt_field and data.reply_field                                             |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kiara_cli.core.tokenizer.chat_format import ROLES, check_messages
from kiara_cli.errors import KiaraError

SPEAKERS = {
    "human": "user", "user": "user", "prompter": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant", "system": "system",
}  # fmt: skip
REQUESTS = {  # request → the fields that may hold the reply
    "instruction": ("output", "response"),
    "prompt": ("completion", "response"),
    "question": ("answer",),
    "input": ("output",),
}
CHOSEN, REJECTED = "chosen", "rejected"
CORRECT = "correct or delete it"


@dataclass(frozen=True)
class Talk:
    """A conversation that ends with the reply that was preferred, and where there is one, the other reply."""

    messages: list[dict[str, str]]
    rejected: str | None = None


@dataclass(frozen=True)
class Fields:
    """Where records hold what is learned: a text, and a request and its reply under names of a person's own."""

    text: str = "text"
    prompt: str | None = None
    reply: str | None = None

    def named(self, names: Iterable[str]) -> list[str]:
        """Return which of the fields of a table are read."""
        names = list(names)
        pairs = [(self.prompt, self.reply)] if self.prompt and self.reply else []
        pairs += [(request, reply) for request, replies in REQUESTS.items() for reply in replies]
        found = [name for name in (self.text, "messages", "conversations") if name in names]
        for request, reply in pairs:
            found += [request, reply] if request in names and reply in names else []
        found += [CHOSEN, REJECTED] if CHOSEN in names and REJECTED in names else []
        beside = [name for name in ("prompt", "input", "system") if name in names]
        return list(dict.fromkeys([*found, *beside])) if found else []


def talk_of(fields: Mapping[str, Any], origin: str, where: Fields) -> Talk | None:
    """Read a record as a conversation or a pair of replies; None if it is in none of the formats.

    Raises KiaraError, naming `origin`, for an unknown role, a missing text, or a reply that is empty.
    """
    if fields.get(CHOSEN) is not None and fields.get(REJECTED) is not None:
        return _preference(fields, origin)
    messages = _messages(fields, origin) or _request_and_reply(fields, origin, where)
    if messages is None:
        return None
    for message in messages:
        if message["role"] == "assistant" and not message["content"].strip():
            raise KiaraError(f"{origin}: the assistant's reply is empty", CORRECT)
    return Talk(messages)


def _messages(fields: Mapping[str, Any], origin: str) -> list[dict[str, str]] | None:
    """Read what OpenAI or ShareGPT calls a conversation."""
    if fields.get("messages"):
        return check_messages(fields["messages"], origin)
    turns = fields.get("conversations")
    if turns is None:
        return None
    if not isinstance(turns, list) or not turns:
        raise KiaraError(f"{origin}: conversations is no list of turns", CORRECT)
    found = _system(fields, origin)
    for turn in turns:
        turn = turn if isinstance(turn, dict) else {}
        speaker, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if not isinstance(speaker, str) or speaker.lower() not in SPEAKERS:
            raise KiaraError(f"{origin}: a turn from {speaker!r}", f"known are: {', '.join(SPEAKERS)}")
        found.append({"role": SPEAKERS[speaker.lower()], "content": _text(text, "value", origin)})
    return found


def _request_and_reply(fields: Mapping[str, Any], origin: str, where: Fields) -> list[dict[str, str]] | None:
    """Read a request and its reply, under names of a person's own or the usual ones."""
    pairs = [(where.prompt, where.reply)] if where.prompt and where.reply else []
    pairs += [(request, reply) for request, replies in REQUESTS.items() for reply in replies]
    for request, reply in pairs:
        if fields.get(request) is None or fields.get(reply) is None:
            continue
        if isinstance(fields[request], list):
            return [*check_messages(fields[request], origin), *_reply(fields[reply], reply, origin)]
        asked = _text(fields[request], request, origin)
        if request == "instruction" and fields.get("input"):
            asked = f"{asked}\n\n{_text(fields['input'], 'input', origin)}"
        if not asked.strip():
            raise KiaraError(f"{origin}: {request} is empty", CORRECT)
        return [*_system(fields, origin), {"role": "user", "content": asked}, *_reply(fields[reply], reply, origin)]
    return None


def _preference(fields: Mapping[str, Any], origin: str) -> Talk:
    """Read a request with a reply that was preferred to another. Both may be whole conversations."""
    chosen, rejected = (_reply(fields[key], key, origin) for key in (CHOSEN, REJECTED))
    asked = fields.get("prompt", fields.get("messages", fields.get("instruction", fields.get("question"))))
    if isinstance(asked, list) and asked:
        before = check_messages(asked, origin)
    elif isinstance(asked, str) and asked.strip():
        before = [*_system(fields, origin), {"role": "user", "content": asked}]
    else:
        before = chosen[:-1]
    if len(chosen) > 1 and chosen[: len(before)] == before:
        chosen, rejected = chosen[len(before) :], rejected[len(before) :]
    ends = (len(side) == 1 and side[0]["role"] == "assistant" for side in (chosen, rejected))
    if not before or before[-1]["role"] != "user" or not all(ends):
        raise KiaraError(
            f"{origin}: {CHOSEN} and {REJECTED} are not two replies to one request",
            'write {"prompt": "…", "chosen": "…", "rejected": "…"}',
        )
    texts = [side[0]["content"] for side in (chosen, rejected)]
    for key, text in zip((CHOSEN, REJECTED), texts, strict=True):
        if not text.strip():
            raise KiaraError(f"{origin}: {key} is empty", CORRECT)
    if texts[0] == texts[1]:
        raise KiaraError(f"{origin}: {CHOSEN} and {REJECTED} are the same", CORRECT)
    return Talk([*before, *chosen], texts[1])


def _reply(value: Any, key: str, origin: str) -> list[dict[str, str]]:
    """Read a reply: a text, or messages that end with it."""
    if isinstance(value, list):
        return check_messages(value, origin)
    return [{"role": "assistant", "content": _text(value, key, origin)}]


def _system(fields: Mapping[str, Any], origin: str) -> list[dict[str, str]]:
    value = fields.get("system")
    return [{"role": "system", "content": _text(value, "system", origin)}] if value else []


def _text(value: Any, key: str, origin: str) -> str:
    if not isinstance(value, str):
        raise KiaraError(f"{origin}: {key} is not a text", CORRECT)
    return value


assert set(SPEAKERS.values()) == set(ROLES)
