"""What text is made of before it is ids: documents.

In: a text and where it stood, or a conversation. Out: the unit that a validation split keeps whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from kiara_cli.core.tokenizer.chat_format import Message


@dataclass(frozen=True)
class Document:
    """One text and where it came from; documents are the unit that a validation split keeps whole.

    A long text comes as several of these, one after the other; each but the first `continues` the one before.
    """

    origin: str
    text: str  # of a conversation: all that is said
    messages: tuple[Message, ...] = ()
    continues: bool = False
    held_out: bool = False  # the end of a document whose beginning is trained on
    whole: str = ""  # the content hash of the whole text where this is a part of it
    ids: NDArray[Any] | None = None  # of a document that was tokenized elsewhere
    rejected: str | None = None  # the reply that was not preferred to the one that `messages` end with

    @cached_property
    def content(self) -> str:
        """The SHA-256 of the whole text."""
        return self.whole or hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def draw(self) -> float:
        """A number in 0 … 1 that decides whether the document is held out, the same on every machine."""
        return int(self.content[:16], 16) / 2**64


def conversation(origin: str, messages: Sequence[Message], rejected: str | None = None) -> Document:
    """Make a document of a conversation, or of a pair: with the reply that was not preferred to its last one."""
    said = [message["content"] for message in messages] + ([] if rejected is None else [rejected])
    return Document(origin, "\n".join(said), tuple(messages), rejected=rejected)
