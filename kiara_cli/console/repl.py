"""The conversation as a person types it: a prompt with history in a terminal, plain lines in a pipe.

In: a conversation. Out: replies on stdout as they come, notices on stderr.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kiara_cli.console import output, terminal
from kiara_cli.console.slash import is_command, obey, said
from kiara_cli.console.talk import Talk


def answer_lines(talk: Talk, lines: Iterable[bytes]) -> None:
    """Answer each line of input with one reply; commands work, empty lines are passed over."""
    for raw in lines:
        line = raw.decode("utf-8", errors="replace").rstrip("\r\n")
        if line.strip():
            obey(talk, line) if is_command(line) else talk.say(said(line))
        if talk.over:
            return


def hold(talk: Talk, **more: Any) -> None:
    """Hold a conversation in a terminal until /exit or the end of input; `more` is for tests: input and output."""
    from prompt_toolkit.formatted_text import HTML

    from kiara_cli.console.prompt import make_prompt, message_of, type_ahead

    prompt = make_prompt(talk.session.chat.history, **more)
    output.note(f"Talking with {talk.name}. /help lists the commands, /exit leaves.")
    with terminal.quiet() as talk.ahead:
        while not talk.over:
            draft, talk.draft = talk.draft, ""
            try:
                type_ahead(prompt, talk.ahead.take())
                typed = prompt.prompt(HTML("<ansicyan><b>you</b></ansicyan> "), default=draft)
                text, quoted = message_of(typed)
                if is_command(text) and not quoted:
                    obey(talk, text)
                elif text:
                    talk.say(text if quoted else said(text))
            except KeyboardInterrupt:  # drops the line that was being typed
                if not prompt.default_buffer.text:
                    output.note("(Ctrl-D or /exit leaves.)")
            except EOFError:
                return
