"""kiara chat: a conversation in the terminal, or line by line in a pipe."""

from __future__ import annotations

import sys

from kiara_cli.commands.options import ConfigFiles, Debug, Words, read


def chat(words: Words = None, config: ConfigFiles = None, debug: Debug = False) -> None:
    """Talk with a model: kiara chat, or kiara chat checkpoints/best.pt."""
    from kiara_cli.commands.model import open_model
    from kiara_cli.console import output, repl

    opened = open_model(read(words, config))
    from kiara_cli.core.chat.session import Session

    talks, settings = opened.conversations, opened.config
    session = Session(opened.engine(), opened.tokenizer, settings.generate, settings.chat, conversations=talks)
    if session.template.kind == "transcript":
        output.warn(
            "this model learned from plain text, not from conversations; expect it to ramble "
            "(kiara generate continues a text)"
        )
    if sys.stdin.isatty() and sys.stdout.isatty():
        repl.talk(session, str(opened.checkpoint.path))
    else:
        repl.answer_lines(session, sys.stdin.buffer)
