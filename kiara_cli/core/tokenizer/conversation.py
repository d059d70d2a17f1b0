"""How a conversation becomes ids: with Kiara's turn marks, by a template that came in with the model, or as a
plain transcript.

In: messages. Out: ids for the model to continue, and what ends its reply. A model that learned from conversations
knows the marks; one that learned from plain text has never seen them, and reads a transcript instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kiara_cli.core.tokenizer.chat_format import Message, encode_conversation, encode_prompt, stop_ids
from kiara_cli.core.tokenizer.imported import ImportedTokenizer
from kiara_cli.core.tokenizer.protocol import Tokenizer

NAMES = {"system": "", "user": "User:\n", "assistant": "Assistant:\n"}


@dataclass(frozen=True)
class Template:
    """The format of one model's conversations."""

    kind: Literal["conversation", "imported", "transcript"]
    tokenizer: Tokenizer

    def encode(self, messages: Sequence[Message], continued: bool = False) -> list[int]:
        """Return the ids of a conversation that the assistant is to reply to, or to go on with its last message.

        Raises KiaraError where an imported template refuses the conversation.
        """
        if self.kind == "imported":
            assert isinstance(self.tokenizer, ImportedTokenizer)
            return self.tokenizer.encode_chat(messages, continued)
        if self.kind == "conversation":
            if continued:
                return encode_conversation(messages, self.tokenizer)[0][:-1]  # without the mark that ends a message
            return encode_prompt(messages, self.tokenizer)
        text = "".join(f"{NAMES[message['role']]}{message['content']}\n\n" for message in messages)
        text = text[:-2] if continued else text + NAMES["assistant"]
        return [*(self.tokenizer.prefix or (self.tokenizer.start,)), *self.tokenizer.encode(text)]

    def harmless(self, text: str) -> str:
        """Return a text from elsewhere without what an imported template marks turns with in plain text.

        Kiara's own marks, and others' special tokens, are never read in a text; a transcript's names count at the
        beginning of a line alone.
        """
        if isinstance(self.tokenizer, ImportedTokenizer) and self.kind == "imported":
            return self.tokenizer.without_marks(text)
        return text

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a reply."""
        if self.kind == "conversation":
            return stop_ids(self.tokenizer)
        if isinstance(self.tokenizer, ImportedTokenizer) and self.kind == "imported":
            return self.tokenizer.ends | self.tokenizer.turn_end
        return self.tokenizer.ends

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end a reply."""
        return ("\n\nUser:", "\n\nAssistant:") if self.kind == "transcript" else ()


def template_for(tokenizer: Tokenizer, conversations: bool) -> Template:
    """Choose the format for a model that learned from conversations, or did not."""
    if conversations:
        return Template("conversation", tokenizer)
    own = isinstance(tokenizer, ImportedTokenizer) and tokenizer.template is not None
    return Template("imported" if own else "transcript", tokenizer)
