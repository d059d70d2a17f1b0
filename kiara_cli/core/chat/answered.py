"""A conversation that ends in a reply, as the model reads it.

In: messages, the last one the assistant's. Out: ids, and where the reply begins in them.
"""

from __future__ import annotations

from collections.abc import Sequence

from kiara_cli.core.chat.fit import fit
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.conversation import Template
from kiara_cli.errors import KiaraError


def answered(
    template: Template, system: Sequence[Message], turns: Sequence[Message], context: int
) -> tuple[list[int], int]:
    """Return at most `context` ids and the number of those before the reply. Raises KiaraError where there is none.

    The oldest turns are left out as in a chat. A reply as text may have other ids than those that were sampled: it is
    cut into tokens anew.
    """
    if not turns or turns[-1]["role"] != "assistant" or not turns[-1]["content"]:
        raise KiaraError("there is no reply to explain", "say something first")
    ids, _ = fit(template, system, turns, context, continued=True)
    empty = {**turns[-1], "content": ""}
    length = len(template.encode(turns, continued=True)) - len(template.encode([*turns[:-1], empty], continued=True))
    return ids, min(max(1, len(ids) - length), len(ids) - 1)
