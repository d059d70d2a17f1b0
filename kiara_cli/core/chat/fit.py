"""Which part of a conversation the model reads: the one rule for what is left out when the context is full.

In: messages and a number of tokens. Out: ids within that number, and what had to be left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.conversation import Template
from kiara_cli.core.tokenizer.protocol import decode

RESERVE = 8  # this share of the context is kept free for the reply: short answers, and most of a long story, fit


@dataclass(frozen=True)
class Forgot:
    """What of a conversation the model does not read."""

    turns: int  # the oldest ones
    tokens: int  # at the beginning of the last message
    system: int = 0  # tokens of a system prompt that is too long, and therefore left out


def prompt_budget(context: int, reply_tokens: int) -> int:
    """Return how many tokens of a conversation are read before a reply of at most `reply_tokens`."""
    return context - max(1, min(reply_tokens, context // RESERVE))


def fit(
    template: Template, system: Sequence[Message], turns: Sequence[Message], budget: int, continued: bool = False
) -> tuple[list[int], Forgot | None]:
    """Return the ids of the newest turns that fit, and what had to be left out.

    The system messages stay, unless they leave less than half of the budget and the last message does not fit beside
    them. The conversation still opens with the person, if a turn of theirs is left; a last message that is too long
    by itself loses its beginning. With `continued` the last message is the assistant's, to be gone on with.
    """
    start = len(turns) - (2 if continued and len(turns) > 1 else 1)  # what is continued is read with its question
    start = next((i for i in range(start, len(turns)) if turns[i]["role"] == "user"), start)
    ids = template.encode([*system, *turns[start:]], continued)
    for opening in reversed([i for i in range(start) if i == 0 or turns[i]["role"] == "user"]):
        if len(longer := template.encode([*system, *turns[opening:]], continued)) > budget:
            break
        start, ids = opening, longer
    if len(ids) <= budget:
        return ids, Forgot(start, 0) if start else None
    taken = _system_tokens(template, system, turns[-1])
    if taken and taken >= budget // 2:
        ids, forgot = fit(template, (), turns, budget, continued)
        return ids, replace(forgot or Forgot(0, 0), system=taken)
    alone = template.encode([*system, turns[-1]], continued)
    forgot = Forgot(len(turns) - 1, max(0, len(alone) - budget))
    return _cut(template, system, turns[-1], budget, continued) if forgot.tokens else alone, forgot


def _system_tokens(template: Template, system: Sequence[Message], message: Message) -> int:
    """Return how many tokens the system messages take."""
    empty = {**message, "content": ""}
    return len(template.encode([*system, empty])) - len(template.encode([empty])) if system else 0


def _cut(template: Template, system: Sequence[Message], message: Message, budget: int, continued: bool) -> list[int]:
    """Shorten a message from its beginning until it fits."""
    frame = len(template.encode([*system, {**message, "content": ""}], continued))
    words = template.tokenizer.encode(message["content"])
    room = max(1, budget - frame)
    while True:
        shortened = decode(template.tokenizer, words[-room:]) if room < len(words) else message["content"]
        ids = template.encode([*system, {**message, "content": shortened}], continued)
        if len(ids) <= budget or room <= 1:
            return ids[-budget:]
        room -= max(1, len(ids) - budget)  # half a character at the cut may take more ids than before
