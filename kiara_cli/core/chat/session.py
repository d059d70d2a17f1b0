"""A conversation with a model: the terminal, the page and the server all talk through `Session`.

In: what a person says. Out: the reply as it comes, and a notice when the context forces something to be forgotten.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

from kiara_cli.config.schema import ChatConfig, GenerateConfig
from kiara_cli.core.chat.fit import Forgot, fit
from kiara_cli.core.chat.template import Template, template_for
from kiara_cli.core.generate.engine import Engine
from kiara_cli.core.generate.text import Completion, Piece, stream_text
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.protocol import Tokenizer


@dataclass
class Session:
    """Hold the messages of one conversation. `settings` and `chat` may be changed between two turns."""

    engine: Engine
    tokenizer: Tokenizer
    settings: GenerateConfig
    chat: ChatConfig
    messages: list[Message] = field(default_factory=list)
    told: bool = False  # that something was forgotten; said once a conversation
    conversations: bool = True  # whether the model learned from any; if not, it reads a transcript

    @property
    def template(self) -> Template:
        """How the conversation is written for this model."""
        return template_for(self.tokenizer, self.conversations)

    def clear(self) -> None:
        """Start a new conversation."""
        self.messages.clear()
        self.told = False

    def reply(self, text: str) -> Iterator[Forgot | Piece | Completion]:
        """Say something and yield the reply as it comes.

        Where the context ends in the middle of a reply, all earlier turns are forgotten and it goes on. A reply that
        is broken off (the caller closes the iterator) is kept as far as it got.
        """
        self.messages.append({"role": "user", "content": text})
        said, parts, left, alone = "", [], self.chat.max_new_tokens, False
        try:
            while True:
                prompt, forgot = self._prompt(alone)
                prompt += self.tokenizer.encode(said)
                if forgot is not None and not self.told:
                    self.told = True
                    yield forgot
                room = min(left, self.engine.context - len(prompt))
                if room < 1:
                    break
                stop = (*self.settings.stop, *self.template.stop)
                settings = dataclasses.replace(self.settings, max_new_tokens=room, stop=stop)
                for event in stream_text(self.engine, self.tokenizer, prompt, settings, self.template.stop_ids):
                    if isinstance(event, Completion):
                        parts.append(event)
                    else:
                        said += event.text
                        yield event
                left -= parts[-1].completion_tokens
                full = parts[-1].finish_reason == "length" and left > 0
                if not full or alone or len(self.messages) == 1:
                    break
                alone = True
            yield dataclasses.replace(
                parts[0],
                text=said,
                finish_reason=parts[-1].finish_reason,
                completion_tokens=sum(part.completion_tokens for part in parts),
                seconds=sum(part.seconds for part in parts),
            )
        finally:
            self.messages.append({"role": "assistant", "content": said})

    def _reserve(self) -> int:
        """Tokens that reading always leaves to the reply; a longer one goes on as `reply` says."""
        return max(1, min(self.chat.max_new_tokens, self.engine.context // 8))

    def _prompt(self, alone: bool = False) -> tuple[list[int], Forgot | None]:
        """Return the ids to read, within the context less the reply's room, and what had to be left out.

        With `alone`, of all turns only the last is read.
        """
        system: list[Message] = [{"role": "system", "content": self.chat.system}] if self.chat.system else []
        turns = self.messages[-1:] if alone else self.messages
        ids, forgot = fit(self.template, system, turns, self.engine.context - self._reserve())
        before = len(self.messages) - len(turns)
        if forgot is None:
            return ids, Forgot(before, 0) if before else None
        return ids, Forgot(before + forgot.turns, forgot.tokens)
