"""Messages to ids and the loss mask: the one module that knows how a conversation is written in tokens.

    <|endoftext|> <|system|> … <|end|> <|user|> … <|end|> <|assistant|> … <|end|>

The marks are special ids. Text is encoded without them, so nothing that a person types can forge a turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, Tokenizer
from kiara_cli.errors import KiaraError

Message: TypeAlias = Mapping[str, str]  # {"role": …, "content": …}, as OpenAI writes it

ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
END = "<|end|>"


def encode_conversation(messages: Sequence[Message], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Return the ids of a conversation, and for each whether it is a target: what the assistant says, and its end."""
    marks = tokenizer.specials
    ids, mask = [marks[END_OF_TEXT]], [False]
    for message in messages:
        turn = tokenizer.encode(message["content"])
        ids += [marks[ROLES[message["role"]]], *turn, marks[END]]
        mask += [False] + [message["role"] == "assistant"] * (len(turn) + 1)
    return ids, mask


def encode_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a conversation that the assistant is to continue."""
    return [*encode_conversation(messages, tokenizer)[0], tokenizer.specials[ROLES["assistant"]]]


def stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the ids that end a reply."""
    return tokenizer.ends | {tokenizer.specials[END]}


def target_mask(ids: NDArray[np.integer[Any]], specials: Mapping[str, int]) -> NDArray[np.bool_]:
    """Work the loss mask out of ids alone, (n,) → (n,): an id is a target if the last mark before it opened an
    assistant's turn. Agrees with `encode_conversation`, as marks never come from text."""
    is_mark = np.isin(ids, list(specials.values()))
    last_mark = np.maximum.accumulate(np.where(is_mark, np.arange(len(ids)), 0))
    before = np.concatenate([last_mark[:1], last_mark[:-1]])
    mask: NDArray[np.bool_] = ids[before] == specials[ROLES["assistant"]]
    return mask


def check_messages(messages: Any, origin: str) -> list[dict[str, str]]:
    """Check that a value is a list of messages. Raises KiaraError naming `origin`."""
    remedy = 'write {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'
    if not isinstance(messages, list) or not messages:
        raise KiaraError(f"{origin}: no list of messages", remedy)
    checked = []
    for message in messages:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ROLES or not isinstance(content, str):
            raise KiaraError(f"{origin}: a message needs a role ({', '.join(ROLES)}) and a text as content", remedy)
        checked.append({"role": role, "content": content})
    return checked
