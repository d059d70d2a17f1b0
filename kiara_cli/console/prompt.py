"""The line that a person types in: keys, what Tab completes, and what is remembered for the next time.

In: whether to remember. Out: a prompt_toolkit session. Enter sends; Alt-Enter begins a new line, as does Enter within
a text that begins with three quotes and has not ended with them. A paste is one message, newlines or not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.key_binding.key_processor import KeyPress

from kiara_cli.config import keys
from kiara_cli.config.folders import state_folder
from kiara_cli.console import output
from kiara_cli.console.slash import COMMANDS, OFF, SETTINGS, range_of
from kiara_cli.core.checkpoint.find import listed
from kiara_cli.core.retrieve.search import names

QUOTES = '"""'
MENU = 6  # lines that are kept free below the prompt for what Tab offers


def make_prompt(remember: bool, **more: Any) -> PromptSession[str]:
    """Return what reads messages; `more` is for tests: input and output."""
    return PromptSession(
        history=open_history() if remember else InMemoryHistory(),
        completer=SlashCompleter(),
        complete_while_typing=False,
        key_bindings=bindings(),
        prompt_continuation="    ",
        reserve_space_for_menu=MENU,
        **more,
    )


def type_ahead(prompt: PromptSession[str], typed: bytes) -> None:
    """Let what was typed earlier be the first that the prompt reads."""
    presses: list[KeyPress] = []
    parser = Vt100Parser(presses.append)
    parser.feed(typed.decode("utf-8", errors="replace"))
    parser.flush()
    store_typeahead(prompt.app.input, presses)


def message_of(text: str) -> tuple[str, bool]:
    """Return what was typed without the quotes around it, and whether they were there: then it is no command."""
    text = text.strip()
    if len(text) >= 2 * len(QUOTES) and text.startswith(QUOTES) and text.endswith(QUOTES):
        return text[len(QUOTES) : -len(QUOTES)].strip("\n"), True
    return text, False


def is_open(text: str) -> bool:
    """Say whether three quotes have begun a text and not ended it."""
    text = text.strip()
    return text.startswith(QUOTES) and (len(text) < 2 * len(QUOTES) or not text.endswith(QUOTES))


def bindings() -> KeyBindings:
    """Return the keys that differ from prompt_toolkit's own."""
    made = KeyBindings()

    @Condition
    def within_quotes() -> bool:
        return is_open(get_app().current_buffer.text)

    @made.add("escape", "enter")
    @made.add("enter", filter=within_quotes)
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return made


def open_history() -> History:
    """Return the history of earlier talks, in a file that nobody else can read from its first byte on."""
    folder = state_folder()
    if folder is None:
        return InMemoryHistory()
    path = folder / "chat_history"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600))
    except OSError as error:
        output.warn(f"what you type is not remembered: {path}: {error.strerror}")
        return InMemoryHistory()
    return FileHistory(path)


class SlashCompleter(Completer):
    """Completes commands and what they take: settings, models, files. Messages are left alone."""

    def __init__(self) -> None:
        self._files = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor
        command, blank, rest = before.partition(" ")
        if not before.startswith("/") or "\n" in before:
            return
        if not blank:
            for name, known in COMMANDS.items():
                if name.startswith(command):
                    yield Completion(name, -len(command), f"{name} {known.arguments}".strip(), known.help)
        elif command in ("/save", "/load"):
            yield from self._files.get_completions(Document(rest), complete_event)
        else:
            for word, about in offers(command, rest):
                part = rest.rpartition(" ")[2]
                if word.startswith(part):
                    yield Completion(word, -len(part), display_meta=about)


def offers(command: str, rest: str) -> list[tuple[str, str]]:
    """Return the words that may follow a command, and what each is."""
    if command == "/model":
        return [(entry.word, "" if entry.loss is None else f"loss {entry.loss:.4f}") for entry in listed(Path())]
    if command == "/knowledge":
        return [(name, "") for name in (*names(), OFF)]
    if command == "/set" and " " not in rest:
        return [(name, range_of(path)) for name, path in SETTINGS.items()]
    if command == "/set":
        path = SETTINGS.get(rest.split()[0], "") if rest.split() else ""
        return [(word, "") for word in (keys.choices(path) if path else ())]
    return []
