"""A conversation with a model: the terminal, the page and the server all talk through `Session`.

In: what a person says. Out: the reply as it comes, and a notice when the context forces something to be forgotten.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

from kiara_cli.config.schema import ChatConfig, GenerateConfig
from kiara_cli.core.generate.engine import Engine
from kiara_cli.core.generate.text import Completion, Piece, stream_text
from kiara_cli.core.tokenizer.chat_format import Message, encode_prompt, stop_ids
from kiara_cli.core.tokenizer.protocol import Tokenizer, decode


@dataclass(frozen=True)
class Forgot:
    """The context is full: the oldest turns, or the beginning of a long message, no longer reach the model."""

    turns: int
    tokens: int


@dataclass
class Session:
    """Hold the messages of one conversation. `settings` and `chat` may be changed between two turns."""

    engine: Engine
    tokenizer: Tokenizer
    settings: GenerateConfig
    chat: ChatConfig
    messages: list[Message] = field(default_factory=list)
    told: bool = False  # that something was forgotten; said once a conversation

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
                settings = dataclasses.replace(self.settings, max_new_tokens=room)
                for event in stream_text(self.engine, self.tokenizer, prompt, settings, stop_ids(self.tokenizer)):
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

        The system message always stays. Turns are dropped oldest first, two at a time, so that the conversation
        still opens with the person; a last message that is too long by itself loses its beginning.
        """
        budget = self.engine.context - self._reserve()
        system: list[Message] = [{"role": "system", "content": self.chat.system}] if self.chat.system else []
        kept = self.messages[-1:] if alone else list(self.messages)
        while len(kept) > 2 and len(encode_prompt(system + kept, self.tokenizer)) > budget:
            kept = kept[2:]
        turns = len(self.messages) - len(kept)
        ids = encode_prompt(system + kept, self.tokenizer)
        cut = max(0, len(ids) - budget)
        if cut:
            ids = self._cut(system, kept[-1]["content"], budget)
        return ids, Forgot(turns, cut) if turns or cut else None

    def _cut(self, system: list[Message], text: str, budget: int) -> list[int]:
        """Shorten a message from its beginning until it fits; a system message too long for that is cut off too."""
        frame = len(encode_prompt([*system, {"role": "user", "content": ""}], self.tokenizer))
        if frame >= budget // 2:
            system, frame = [], len(encode_prompt([{"role": "user", "content": ""}], self.tokenizer))
        words = self.tokenizer.encode(text)
        room = max(1, budget - frame)
        while True:
            shortened = decode(self.tokenizer, words[-room:]) if room < len(words) else text
            ids = encode_prompt([*system, {"role": "user", "content": shortened}], self.tokenizer)
            if len(ids) <= budget or room <= 1:
                return ids[-budget:] if budget < len(ids) else ids
            room -= max(1, len(ids) - budget)  # half a character at the cut may take more ids than before
