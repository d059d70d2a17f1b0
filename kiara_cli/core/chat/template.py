"""How a conversation becomes ids: with the tokenizer's turn marks, or as a plain transcript.

In: messages. Out: ids for the model to continue, and what ends its reply. A model that learned from conversations
knows the marks; one that learned from plain text has never seen them, and reads a transcript instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kiara_cli.core.tokenizer.chat_format import Message, encode_conversation, encode_prompt, stop_ids
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, Tokenizer

NAMES = {"system": "", "user": "User:\n", "assistant": "Assistant:\n"}


@dataclass(frozen=True)
class Template:
    """The format of one model's conversations."""

    kind: Literal["conversation", "transcript"]
    tokenizer: Tokenizer

    def encode(self, messages: Sequence[Message], continued: bool = False) -> list[int]:
        """Return the ids of a conversation that the assistant is to reply to, or to go on with its last message."""
        if self.kind == "conversation":
            if continued:
                return encode_conversation(messages, self.tokenizer)[0][:-1]  # without the mark that ends a message
            return encode_prompt(messages, self.tokenizer)
        text = "".join(f"{NAMES[message['role']]}{message['content']}\n\n" for message in messages)
        text = text[:-2] if continued else text + NAMES["assistant"]
        return [self.tokenizer.specials[END_OF_TEXT], *self.tokenizer.encode(text)]

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a reply."""
        if self.kind == "conversation":
            return stop_ids(self.tokenizer)
        return frozenset({self.tokenizer.specials[END_OF_TEXT]})

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end a reply."""
        return () if self.kind == "conversation" else ("\n\nUser:", "\n\nAssistant:")


def template_for(tokenizer: Tokenizer, conversations: bool) -> Template:
    """Choose the format for a model that learned from conversations, or did not."""
    return Template("conversation" if conversations else "transcript", tokenizer)
