"""The commands of a conversation: one table, from their names to what they do.

In: a line that begins with a slash. Out: what it says, on stderr; a changed conversation.
"""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kiara_cli.config import keys
from kiara_cli.config.folders import expanded
from kiara_cli.config.load import set_value
from kiara_cli.console import output, sources
from kiara_cli.console.talk import Talk
from kiara_cli.console.why import show_why
from kiara_cli.core.chat import saved
from kiara_cli.core.checkpoint.find import listed
from kiara_cli.core.retrieve.search import names
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError

GENERATE = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "no_repeat_ngram", "stop", "seed", "speculate",
)  # fmt: skip
CHAT = ("max_new_tokens", "system")
SETTINGS = {name: f"chat.{name}" for name in CHAT} | {name: f"generate.{name}" for name in GENERATE}
OFF = "off"
ATTEMPT = re.compile(r"/[A-Za-z?][\w-]*")


@dataclass(frozen=True)
class Command:
    """What is written behind a command, what it does in words, and what does it: a function of what is written."""

    arguments: str
    help: str
    run: Callable[[Talk, str], None]


def is_command(line: str) -> bool:
    """Tell a command from something said: its first word is a slash and letters, so that /home/me is none."""
    words = line.split(maxsplit=1)
    return bool(words) and ATTEMPT.fullmatch(words[0]) is not None


def said(line: str) -> str:
    """Return what a line that is no command says: `//text` says /text."""
    return line[1:] if line.startswith("//") else line


def obey(talk: Talk, line: str) -> None:
    """Carry out a command; say what is wrong with one that cannot be."""
    word, rest = [*line.split(maxsplit=1), ""][:2]
    command = COMMANDS.get(ALIASES.get(word, word))
    if command is None:
        near = difflib.get_close_matches(word, COMMANDS, n=1, cutoff=0.5)
        meant = f"did you mean {near[0]}?" if near else "/help lists them."
        talk.tell(f"There is no command {word}; {meant} (To say it, write /{word}.)")
        return
    try:
        command.run(talk, rest.strip())
    except KiaraError as error:
        talk.tell(f"error: {error}")


def help_(talk: Talk, rest: str) -> None:
    rows = [(f"{name} {command.arguments}".strip(), command.help) for name, command in COMMANDS.items()]
    talk.tell("\n".join(f"{left:<18} {right}" for left, right in rows))
    talk.tell(
        'Messages of several lines stand between """ and """, or are typed with Alt-Enter. A first word of a slash '
        "and letters is a command; //word says /word. Ctrl-C stops a reply, Ctrl-D leaves."
    )


def set_(talk: Talk, rest: str) -> None:
    if not rest:
        return talk.tell("\n".join(f"{key:<20} {value_of(talk, key)}" for key in SETTINGS))
    key, value = re.fullmatch(r"([^\s=]*)[\s=]*(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    name = key.removeprefix("chat.").removeprefix("generate.")
    path = SETTINGS.get(name, f"generate.{name}")
    known = keys.keys()
    if name not in SETTINGS and path in known:
        raise KiaraError(f"{path} is settled when a model is opened", f"start with: kiara chat {path}=…")
    keys.check_key(path, value.strip(), "command line")
    if not value.strip():
        return talk.tell(f"{name} is {value_of(talk, name)}; {range_of(path)}")
    if name in CHAT:
        talk.session.chat = set_value(talk.session.chat, name, value.strip())
    else:
        talk.session.settings = set_value(talk.session.settings, name, value.strip())
    talk.tell(f"{name} is now {value_of(talk, name)}")


def value_of(talk: Talk, name: str) -> object:
    """Return a setting as it would be typed."""
    value = getattr(talk.session.chat if name in CHAT else talk.session.settings, name)
    return "null" if value is None else list(value) if isinstance(value, tuple) else value


def range_of(path: str) -> str:
    """Say in words what a setting may be."""
    low, high, above = keys.limits(path)
    least = f"at least {low:g}" if low is not None else f"above {above:g}" if above is not None else ""
    most = f"at most {high:g}" if high is not None and high < 2**53 else ""
    bounds = " and ".join(filter(None, (least, most)))
    return keys.expected(path).removeprefix("expected ") + (f", {bounds}" if bounds else "")


def system(talk: Talk, rest: str) -> None:
    if rest:
        set_(talk, f"system {rest}")
    else:
        talk.tell(f"The system prompt: {talk.session.chat.system or 'none'}")


def clear(talk: Talk, rest: str) -> None:
    talk.session.clear()
    talk.tell("A new conversation.")


def undo(talk: Talk, rest: str) -> None:
    text = take_back(talk)
    talk.tell(f"Taken back: {shortened(text)}")


def take_back(talk: Talk) -> str:
    """Take back the last message and its reply; return the message. Raises KiaraError where there is none."""
    text = talk.session.undo()
    if text is None:
        raise KiaraError("nothing has been said yet", "say something first")
    return text


def retry(talk: Talk, rest: str) -> None:
    text = take_back(talk)
    settings = talk.session.settings
    if not settings.temperature or settings.seed is not None:
        why = "temperature is 0" if not settings.temperature else "there is a seed"
        talk.tell(f"(The reply will be the same, as {why}: see /set.)")
    talk.say(text)


def edit(talk: Talk, rest: str) -> None:
    if not rest and not talk.in_terminal:
        raise KiaraError("there is no terminal to edit in", "write the message behind it: /edit TEXT")
    text = take_back(talk)
    if rest:
        talk.say(rest)
    else:
        talk.draft = text


def save(talk: Talk, rest: str) -> None:
    path = file_of(rest, "/save talk.jsonl")
    line = saved.save(path, [*talk.session.system, *talk.session.messages])
    talk.tell(f"Saved in {path}, line {line}; kiara train {path} learns from such files.")


def load(talk: Talk, rest: str) -> None:
    word, _, number = rest.rpartition(" ") if re.search(r" \d+$", rest) else (rest, "", "")
    messages = saved.load(file_of(word, "/load talk.jsonl"), int(number) if number else None)
    opening = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    system_text = "\n".join(message["content"] for message in messages[:opening])
    talk.session.clear()
    talk.session.chat = set_value(talk.session.chat, "system", system_text or "null")
    talk.session.messages.extend(messages[opening:])
    talk.tell(f"{len(messages)} messages; the last one: {shortened(messages[-1]['content'])}")
    if messages[-1]["role"] == "user":
        talk.tell("It has no reply yet: /retry asks for one.")


def file_of(rest: str, example: str) -> Path:
    if not rest:
        raise KiaraError("no file is named", f"write {example}")
    return expanded(rest)


def model(talk: Talk, rest: str) -> None:
    if not rest:
        return list_models(talk)
    opened = talk.open_model(rest)
    talk.session.switch(opened.engine(), opened.tokenizer, opened.conversations)
    talk.name, talk.last = str(opened.checkpoint.path), None
    talk.tell(f"Talking with {talk.name} now; the conversation goes on, {talk.session.engine.context} tokens of it.")
    warn_of_transcript(talk)


def list_models(talk: Talk) -> None:
    found = listed(Path())
    if not found:
        raise KiaraError("there are no checkpoints here", "train one: kiara train")
    for entry in found:
        loss = "" if entry.loss is None else f"loss {entry.loss:.4f}"
        size, age = output.amount(entry.bytes, "B"), age_of(time.time() - entry.modified)
        here = Path(talk.name).parent.name == entry.word or talk.name == entry.word
        talk.tell(f"{'*' if here else ' '} {entry.word:<32} {loss:<12} {size:>8}  {age}")
    talk.tell("/model NAME talks with another one.")


def warn_of_transcript(talk: Talk) -> None:
    """Say so if a model has not learned to answer."""
    if talk.session.template.kind == "transcript":
        output.warn(
            "this model learned from plain text, not from conversations; expect it to ramble "
            "(kiara generate continues a text)"
        )


def age_of(seconds: float) -> str:
    """Write how long ago something was, as people say it."""
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"


def stats(talk: Talk, rest: str) -> None:
    session, cache = talk.session, talk.session.engine.slots.cache
    rows = {
        "model": talk.name,
        "decoding": session.engine.backend.name,
        "conversation": f"{len(session.messages)} messages, {used(talk)}",
        "KV cache": f"{output.amount(cache.bytes, 'B')} for {cache.slots} × {cache.capacity:,} tokens",
        "prefixes": f"{output.amount(session.engine.prefixes.bytes, 'B')} of what was read before",
    }
    if talk.last is not None:
        speed = f"{talk.last.writing_tokens_per_second:.0f} tokens/s"
        rows["last reply"] = f"{talk.last.completion_tokens} tokens, {speed} ({talk.last.finish_reason})"
    talk.tell("\n".join(f"{name:<12} {value}" for name, value in rows.items()))


def used(talk: Talk) -> str:
    """Say how full the context is."""
    session = talk.session
    length, context = len(session.ids()), session.engine.context
    if length > context:
        return f"{length:,} tokens, of which the model reads the last {context:,} at most"
    return f"{length:,} of {context:,} tokens ({length / context:.0%})"


def tokens(talk: Talk, rest: str) -> None:
    tokenizer, messages = talk.session.tokenizer, talk.session.messages[-2:]
    for role, text in [("", rest)] if rest else [(message["role"], message["content"]) for message in messages]:
        ids = tokenizer.encode(text)
        talk.tell(f"{role + ': ' if role else ''}{len(ids)} tokens")
        talk.tell(" ".join(f"{piece_of(tokenizer, token)}·{token}" for token in ids))
    if not rest:
        talk.tell(f"The conversation: {used(talk)}.")


def piece_of(tokenizer: Tokenizer, token: int) -> str:
    """Return a token's text with its blanks and newlines shown."""
    text = tokenizer.token_bytes(token).decode("utf-8", errors="replace")
    return text.replace(" ", "␣").replace("\n", "⏎") or "<special>"


def shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"


def why(talk: Talk, rest: str) -> None:
    show_why(talk.session, rest)


def knowledge(talk: Talk, rest: str) -> None:
    session = talk.session
    if not rest:
        used = f"Answers are taken from {session.knowledge.name}" if session.knowledge else "No index is in use"
        there = ", ".join(names())
        return talk.tell(f"{used}; {f'there is: {there}' if there else 'kiara index DOCS makes one'}.")
    session.knowledge = None if rest == OFF else talk.open_knowledge(rest)
    talk.tell("Without an index from now on." if rest == OFF else f"Answers are taken from {rest} from now on.")


def sources_(talk: Talk, rest: str) -> None:
    grounded = talk.session.newest_grounded
    if grounded is None:
        raise KiaraError("the last reply has no sources", "/knowledge NAME takes answers from an index")
    for text in sources.passages(grounded):
        talk.tell(text)


def exit_(talk: Talk, rest: str) -> None:
    talk.over = True


COMMANDS: dict[str, Command] = {
    "/help": Command("", "this list", help_),
    "/set": Command("[KEY [VALUE]]", "show the settings, or change one: /set temperature 0.5", set_),
    "/system": Command("[TEXT]", "show or change the system prompt; /set system null removes it", system),
    "/clear": Command("", "start a new conversation", clear),
    "/retry": Command("", "ask for another reply to the last message", retry),
    "/edit": Command("[TEXT]", "change the last message and send it again", edit),
    "/undo": Command("", "take back the last message and its reply", undo),
    "/save": Command("FILE", "add the conversation to a file that kiara train reads", save),
    "/load": Command("FILE [LINE]", "go on with a saved conversation: the last of the file, or that of a line", load),
    "/model": Command("[NAME]", "list the models, or go on with another one", model),
    "/stats": Command("", "show how replies are computed, and what the cache holds", stats),
    "/tokens": Command(
        "[TEXT]", "show the tokens of the last messages or of a text, and how full the context is", tokens
    ),
    "/why": Command("[WORD]", "why the last reply: its least certain tokens, those of a word, or all", why),
    "/knowledge": Command(f"[NAME|{OFF}]", "take answers from an index of kiara index, or from none", knowledge),
    "/sources": Command("", "show the passages that the last reply was given", sources_),
    "/exit": Command("", "leave (Ctrl-D does too)", exit_),
}
ALIASES = {"/quit": "/exit", "/bye": "/exit", "/?": "/help"}
