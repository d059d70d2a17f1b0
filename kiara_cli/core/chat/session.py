"""A conversation in the terminal: `Session` keeps its messages and runs the engine for each reply.

In: what a person says. Out: the reply as it comes, and a notice when the context forces something to be forgotten.
The server has no sessions, as its clients send the whole conversation each time; what a reply reads and how it goes
on is the same for both: reply.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from kiara_cli.config.schema import ChatConfig, GenerateConfig
from kiara_cli.core.chat.fit import Forgot, prompt_budget
from kiara_cli.core.chat.knowledge import as_read, consult, newest_question
from kiara_cli.core.chat.reply import ReplyRequest
from kiara_cli.core.generate.engine import Engine, GenerationRequest, Token
from kiara_cli.core.generate.text import Completion, Piece, Writing
from kiara_cli.core.retrieve.prompt import Grounded, Knowledge, Source
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.conversation import Template, template_for
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError


@dataclass
class Session:
    """Hold the messages of one conversation. `settings`, `chat` and `knowledge` may be changed between two turns.

    `messages` are what was said; what a question was read with is in `grounded`, by the place of its message.
    """

    engine: Engine
    tokenizer: Tokenizer
    settings: GenerateConfig
    chat: ChatConfig
    messages: list[Message] = field(default_factory=list)
    conversations: bool = True  # whether the model learned from any; if not, it reads a transcript
    told: set[str] = field(default_factory=set)  # what was said to be forgotten; once a conversation
    knowledge: Knowledge | None = None  # an index whose passages stand before each question
    grounded: dict[int, Grounded] = field(default_factory=dict)

    @property
    def template(self) -> Template:
        """How the conversation is written for this model."""
        return template_for(self.tokenizer, self.conversations)

    @property
    def system(self) -> list[Message]:
        """The system message, if there is one."""
        return [{"role": "system", "content": self.chat.system}] if self.chat.system else []

    def clear(self) -> None:
        """Start a new conversation."""
        self.messages.clear()
        self.grounded.clear()
        self.told.clear()

    def switch(self, engine: Engine, tokenizer: Tokenizer, conversations: bool) -> None:
        """Go on with another model."""
        self.engine, self.tokenizer, self.conversations = engine, tokenizer, conversations
        self.told.clear()

    def ids(self) -> list[int]:
        """Return the ids of the whole conversation; the model may read fewer of them."""
        return self.template.encode([*self.system, *self.read()]) if self.messages else []

    def read(self) -> list[Message]:
        """Return the messages as the model reads them: the newest question with the passages it was asked with."""
        return as_read(self.messages, self.newest_grounded)

    @property
    def newest_grounded(self) -> Grounded | None:
        """What the newest question was read with; None if it was asked without an index."""
        place = newest_question(self.messages)
        return None if place is None else self.grounded.get(place)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The passages that the newest question was read with."""
        return self.newest_grounded.sources if self.newest_grounded is not None else ()

    def undo(self) -> str | None:
        """Take back the last thing that a person said, and the reply to it; return it, or None if there is none."""
        last = newest_question(self.messages)
        if last is None:
            return None
        text = self.messages[last]["content"]
        self._forget(last)
        return text

    def reply(self, text: str) -> Generator[Forgot | Piece | Completion]:
        """Say something and yield the reply as it comes.

        A reply that is broken off (the caller closes the iterator) is kept as far as it got. What gets no reply is
        taken back: where it was broken off before the first word, or failed with a KiaraError.
        """
        before = len(self.messages)
        self.messages.append({"role": "user", "content": text})
        said, whole = "", False
        try:
            self._consult()
            request = self.request()
            first, forgot = request.first()
            yield from self._notices(forgot)
            writing = Writing(self.engine, self.tokenizer, first.prompt, first.config, first.stop_ids)
            with contextlib.closing(self._run(request, first)) as events:
                for event in events:
                    if isinstance(event, Forgot):
                        yield from self._notices(event)
                        continue
                    piece = writing.push(event)
                    said += piece
                    if piece:
                        yield Piece(piece)
                    if writing.done is not None:
                        break
            assert writing.done is not None, "the engine's last token carries the reason"
            whole = True
            yield writing.done
        except KiaraError:
            said = ""
            raise
        finally:
            self.messages.append({"role": "assistant", "content": said})
            if not said and not whole:
                self._forget(before)

    def request(self) -> ReplyRequest:
        """Return the request for a reply to the last message."""
        config = dataclasses.replace(self.settings, max_new_tokens=self.chat.max_new_tokens)
        return ReplyRequest(self.template, self.system, self.read(), self.engine.context, config)

    def _consult(self) -> None:
        """Search for the last message, and keep what it is to be read with."""
        if self.knowledge is None:
            return
        budget = prompt_budget(self.engine.context, self.chat.max_new_tokens)
        found = consult(self.knowledge, self.template, self.system, self.messages, budget)
        if found is not None:
            self.grounded[len(self.messages) - 1] = found

    def _forget(self, place: int) -> None:
        """Drop the messages from a place on, and what they were read with."""
        del self.messages[place:]
        self.grounded = {number: found for number, found in self.grounded.items() if number < place}

    def _run(self, request: ReplyRequest, asked: GenerationRequest) -> Generator[Token | Forgot]:
        """Yield the tokens of a reply, and what is forgotten in the middle of it."""
        sampled: list[int] = []
        while True:
            following = None
            active = self.engine.submit(asked)
            try:
                for token in self.engine.follow(active):
                    sampled.append(token.id)
                    following = request.following(asked, sampled) if token.finish_reason == "length" else None
                    yield token if following is None else dataclasses.replace(token, finish_reason=None)
            finally:
                active.cancel()
            if following is None:
                return
            asked = following
            if len(request.turns) > 1:
                yield Forgot(len(request.turns) - 1, 0)

    def _notices(self, forgot: Forgot | None) -> Iterator[Forgot]:
        """Yield what a person has not been told yet; a message that is cut is told each time."""
        if forgot is None:
            return
        kinds = {kind for kind in ("turns", "system") if getattr(forgot, kind)}
        new = kinds - self.told
        self.told |= kinds
        if new or forgot.tokens:
            yield Forgot(
                forgot.turns if "turns" in new else 0, forgot.tokens, forgot.system if "system" in new else 0
            )
