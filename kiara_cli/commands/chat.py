"""kiara chat: a conversation in the terminal, or line by line in a pipe."""

from __future__ import annotations

import os
import sys

from kiara_cli.commands.options import ConfigFiles, Debug, Words, read


def chat(words: Words = None, config: ConfigFiles = None, debug: Debug = False) -> None:
    """Talk with a model: kiara chat, or kiara chat checkpoints/best.pt."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: as in generate
    from kiara_cli.commands.model import open_engine, open_model
    from kiara_cli.console import output, repl
    from kiara_cli.core.chat.session import Session

    opened = open_model(read(words, config))
    engine = open_engine(opened)
    learned = bool(opened.checkpoint.data.get("conversations"))
    session = Session(engine, opened.tokenizer, opened.config.generate, opened.config.chat, conversations=learned)
    if not learned:
        output.warn(
            "this model learned from plain text, not from conversations; expect it to ramble "
            "(kiara generate continues a text)"
        )
    if sys.stdin.isatty() and sys.stdout.isatty():
        repl.talk(session, str(opened.checkpoint.path))
    else:
        repl.answer_lines(session, sys.stdin.buffer)
