"""The conversation as a person types it: a prompt with history in a terminal, plain lines in a pipe.

In: a session. Out: replies on stdout as they come, notices on stderr.
"""

from __future__ import annotations

from collections.abc import Iterable

from kiara_cli.config.load import set_value
from kiara_cli.console import output
from kiara_cli.core.chat.fit import Forgot
from kiara_cli.core.chat.session import Session
from kiara_cli.core.generate.engine import Engine
from kiara_cli.core.generate.text import Piece
from kiara_cli.errors import KiaraError

HELP = {
    "/help": "this list",
    "/clear": "start a new conversation",
    "/set": "show the settings; /set temperature 0.5 changes one",
    "/stats": "show how replies are computed, and what the cache holds",
    "/exit": "leave (Ctrl-D does too); Ctrl-C stops a reply",
}


def answer_lines(session: Session, lines: Iterable[bytes]) -> None:
    """Answer each line of input with one reply; commands work, empty lines are passed over."""
    for raw in lines:
        line = raw.decode("utf-8", errors="replace").rstrip("\r\n")
        if line.strip() == "/exit":
            return
        if line.strip():
            obey(session, line.strip()) if is_command(line) else say(session, line)


def talk(session: Session, name: str) -> None:
    """Hold a conversation in a terminal until /exit or the end of input."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.formatted_text import HTML

    prompt: PromptSession[str] = PromptSession()
    output.note(f"Talking with {name}. /help lists the commands, /exit leaves.")
    while True:
        try:
            line = prompt.prompt(HTML("<ansicyan><b>you</b></ansicyan> ")).strip()
        except KeyboardInterrupt:
            continue  # Ctrl-C drops the line that was being typed
        except EOFError:
            return
        if line == "/exit":
            return
        if is_command(line):
            obey(session, line)
        elif line:
            output.stderr().print("[bold green]kiara[/] ", end="")
            try:
                say(session, line)
            except KeyboardInterrupt:
                output.note(" … stopped")


def say(session: Session, text: str) -> None:
    """Print the reply to a text as it comes, then a newline."""
    events = session.reply(text)
    try:
        for event in events:
            if isinstance(event, Piece):
                output.stream(event.text)
            elif isinstance(event, Forgot):
                output.note(left_out(event, session.engine.context))
        output.result("")
    finally:
        events.close()  # type: ignore[attr-defined]


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


def is_command(line: str) -> bool:
    """Tell a command from something said: `/set` is one, `/` alone and `//` are not."""
    return line.lstrip().startswith("/") and line.strip()[1:2].isalpha()


def obey(session: Session, line: str) -> None:
    """Carry out a command; say what is wrong with one that cannot be."""
    word, *rest = line.split()
    if word == "/clear":
        session.clear()
        output.note("A new conversation.")
    elif word == "/set" and rest:
        change(session, " ".join(rest).replace("=", " ").split(maxsplit=1))
    elif word == "/set":
        settings = vars(session.settings) | {"max_new_tokens": session.chat.max_new_tokens}
        output.note("\n".join(f"{key:<20} {value}" for key, value in settings.items()))
    elif word == "/stats":
        output.note("\n".join(f"{name:<12} {value}" for name, value in stats_of(session.engine).items()))
    elif word == "/help":
        output.note("\n".join(f"{command:<8} {meaning}" for command, meaning in HELP.items()))
    else:
        output.note(f"no command {word}; /help lists them")


def stats_of(engine: Engine) -> dict[str, str]:
    """Return what a person may want to know about the engine."""
    cache = engine.slots.cache
    return {
        "decoding": engine.backend.name,
        "context": f"{engine.context:,} tokens",
        "KV cache": f"{output.amount(cache.bytes, 'B')} for {cache.slots} × {cache.capacity:,} tokens",
        "prefixes": f"{output.amount(engine.prefixes.bytes, 'B')} of what was read before",
    }


def change(session: Session, words: list[str]) -> None:
    """Change one setting of the conversation, checked as in a config."""
    try:
        if len(words) < 2:
            raise KiaraError(f"no value for {words[0]}", "write it behind the name: /set temperature 0.5")
        if words[0] == "max_new_tokens":
            session.chat = set_value(session.chat, words[0], words[1])
        else:
            session.settings = set_value(session.settings, words[0], words[1])
        output.note(f"{words[0]} is now {words[1]}")
    except KiaraError as error:
        output.note(str(error))
