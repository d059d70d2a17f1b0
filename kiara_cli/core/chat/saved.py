"""Saved conversations: the one module that writes and reads their file.

In: messages. Out: JSON lines in OpenAI's shape, `{"messages": [{"role": …, "content": …}, …]}`, a conversation each,
which `kiara train` reads as they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kiara_cli.core.checkpoint.atomic import replacing
from kiara_cli.core.tokenizer.chat_format import Message, check_messages
from kiara_cli.errors import KiaraError


def save(path: Path, messages: Sequence[Message]) -> int:
    """Add a conversation to a file and return its line; it replaces a last line that is its own beginning.

    Replies without a text are left out with what they reply to: nothing can be learned from them. Raises KiaraError.
    """
    kept = _with_replies(messages)
    if not any(message["role"] == "assistant" for message in kept):
        raise KiaraError("there is nothing to save", "say something first")
    lines = _lines(path) if path.exists() else []
    if lines:
        known = _parse(lines[-1])
        if not isinstance(known, list):
            raise KiaraError(f"{path} holds something else than conversations", "save under another name")
        if kept[: len(known)] == known:
            lines.pop()
    lines.append(json.dumps({"messages": kept}, ensure_ascii=False))
    try:
        with replacing(path) as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise KiaraError(f"cannot write {path}: {error.strerror}", "save into a folder that exists") from None
    return len(lines)


def load(path: Path, number: int | None = None) -> list[dict[str, str]]:
    """Return the messages of a line, counted from 1, or of the last. Raises KiaraError naming what is wrong."""
    lines = _lines(path)
    if not lines:
        raise KiaraError(f"{path} is empty", "give a file that /save wrote")
    number = len(lines) if number is None else number
    if not 1 <= number <= len(lines):
        raise KiaraError(f"{path} has no line {number}", f"give one from 1 to {len(lines)}")
    return check_messages(_parse(lines[number - 1]), f"{path}, line {number}")


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except OSError as error:
        raise KiaraError(f"cannot read {path}: {error.strerror}", "give a file that /save wrote") from None
    except UnicodeDecodeError:
        raise KiaraError(f"{path} is no text", "give a file that /save wrote") from None


def _with_replies(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation without empty replies, and without what has no reply."""
    kept: list[Message] = []
    for message in messages:
        if message["role"] == "assistant" and not message["content"].strip():
            while kept and kept[-1]["role"] == "user":
                kept.pop()
        else:
            kept.append(message)
    while kept and kept[-1]["role"] == "user":
        kept.pop()
    return kept


def _parse(line: str) -> Any:
    """Return what a line has as its messages, whatever that is; None if it has none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value.get("messages") if isinstance(value, dict) else None
