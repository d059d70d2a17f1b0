"""A conversation as the console holds it: what is said, printed as it comes, and what the commands may change.

In: a session, what a person says. Out: replies on stdout, between words where it is a terminal; notices on stderr.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from kiara_cli.console import output, sources, terminal
from kiara_cli.console.wrap import Wrapper
from kiara_cli.core.chat.fit import Forgot
from kiara_cli.core.chat.session import Session
from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.generate.text import Completion, Piece
from kiara_cli.core.retrieve.prompt import Knowledge
from kiara_cli.errors import KiaraError

NAME = "kiara "


@dataclass
class Talk:
    """The state of one conversation in the console. `name` is the checkpoint's; `open_model` opens another one, and
    `open_knowledge` an index."""

    session: Session
    name: str
    open_model: Callable[[str], Opened]
    open_knowledge: Callable[[str], Knowledge]
    in_terminal: bool = False
    draft: str = ""  # stands at the next prompt, to be edited
    ahead: terminal.Ahead = field(default_factory=terminal.Ahead)  # what is typed before the next prompt
    last: Completion | None = None  # what the last reply cost
    over: bool = False

    def tell(self, text: str) -> None:
        """Say something that is no reply, on stderr."""
        output.note(self._wrapped(text))

    def _wrapped(self, text: str) -> str:
        """Break lines between words where it is a terminal."""
        if not self.in_terminal:
            return text
        wrapper = Wrapper(terminal.columns)
        return wrapper.push(text) + wrapper.end()

    def say(self, text: str) -> None:
        """Print the reply to a text as it comes. In a terminal Ctrl-C stops it, and a mistake ends nothing."""
        if not self.in_terminal:
            for event in self.session.reply(text):
                if isinstance(event, Piece):
                    output.stream(event.text)
                elif isinstance(event, Forgot):
                    self.tell(left_out(event, self.session.engine.context))
                else:
                    self.last = event
            output.result("")
            return self._cite()
        with terminal.stoppable() as stopped:
            try:
                self._stream(text, stopped)
            except KiaraError as error:
                self.tell(f"\n({error})")
            except KeyboardInterrupt:
                self.tell("\n(Stopped.)")

    def _stream(self, text: str, stopped: Callable[[], bool]) -> None:
        """Print a reply between words, until it ends or is stopped."""
        before, begun = len(self.session.messages), False
        terminal.mark_pastes(True)
        wrapper = label()
        with contextlib.closing(self.session.reply(text)) as events:
            for event in events:
                if isinstance(event, Piece):
                    begun = True
                    output.stream(wrapper.push(output.harmless(event.text)))
                elif isinstance(event, Forgot):
                    output.stream(wrapper.end() + "\n" if begun else f"\r{' ' * len(NAME)}\r")
                    self.tell(left_out(event, self.session.engine.context))
                    wrapper = Wrapper(terminal.columns) if begun else label()
                else:
                    self.last = event
                while self.ahead.read():
                    pass
                if stopped():
                    break
        output.stream(wrapper.end() + "\n")
        if len(self.session.messages) > before:
            self._cite()
        if stopped() and len(self.session.messages) > before:
            self.tell("(Stopped. What was said is kept; /retry asks again, /undo takes both back.)")
        elif stopped():
            self.tell("(Stopped before the first word; your message is taken back.)")

    def _cite(self) -> None:
        """Name the sources of the last reply."""
        for line in sources.cited(self.session.newest_grounded):
            output.hint(self._wrapped(line))


def label() -> Wrapper:
    """Begin a reply with the name of who replies."""
    output.stderr().print(f"[bold green]{NAME}[/]", end="")
    return Wrapper(terminal.columns, len(NAME))


def left_out(forgot: Forgot, context: int) -> str:
    """Say what of a conversation the model does not read."""
    lines = []
    if forgot.system:
        lines.append(
            f"(The system prompt is left out: its {forgot.system} tokens are too long for this model, which reads "
            f"{context} at once. Shorten chat.system.)"
        )
    if forgot.turns:
        what = "message is" if forgot.turns == 1 else f"{forgot.turns} messages are"
        lines.append(f"(The context of {context} tokens is full: the oldest {what} no longer read.)")
    if forgot.tokens:
        lines.append(
            f"(Your message is too long for this model, which reads {context} tokens at once: "
            f"its first {forgot.tokens} tokens are not read.)"
        )
    return "\n".join(lines)
