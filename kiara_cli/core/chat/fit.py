"""Which part of a conversation the model can read.

In: messages and a number of tokens. Out: ids within that number, and what had to be left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kiara_cli.core.chat.template import Template
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.protocol import decode


@dataclass(frozen=True)
class Forgot:
    """The context is full: the oldest turns, or the beginning of a long message, no longer reach the model."""

    turns: int
    tokens: int


def fit(
    template: Template, system: Sequence[Message], turns: Sequence[Message], budget: int
) -> tuple[list[int], Forgot | None]:
    """Return the ids of the newest turns that fit, and what had to be left out.

    The system messages always stay. The conversation still opens with the person, if a turn of theirs is left; a last
    message that is too long by itself loses its beginning.
    """
    start = len(turns) - 1
    ids = template.encode([*system, *turns[start:]])
    while start and len(longer := template.encode([*system, *turns[start - 1 :]])) <= budget:
        start, ids = start - 1, longer
    opening = next((i for i in range(start, len(turns)) if turns[i]["role"] == "user"), start)
    if start and opening != start:
        start, ids = opening, template.encode([*system, *turns[opening:]])
    cut = max(0, len(ids) - budget)
    if cut:
        ids = _cut(template, system, turns[-1], budget)
    return ids, Forgot(start, cut) if start or cut else None


def _cut(template: Template, system: Sequence[Message], message: Message, budget: int) -> list[int]:
    """Shorten a message from its beginning until it fits; system messages too long for that are cut off too."""
    empty = {**message, "content": ""}
    frame = len(template.encode([*system, empty]))
    if frame >= budget // 2:
        system, frame = [], len(template.encode([empty]))
    words = template.tokenizer.encode(message["content"])
    room = max(1, budget - frame)
    while True:
        shortened = decode(template.tokenizer, words[-room:]) if room < len(words) else message["content"]
        ids = template.encode([*system, {**message, "content": shortened}])
        if len(ids) <= budget or room <= 1:
            return ids[-budget:] if budget < len(ids) else ids
        room -= max(1, len(ids) - budget)  # half a character at the cut may take more ids than before
