"""kiara chat: a conversation in the terminal, or line by line in a pipe."""

from __future__ import annotations

import dataclasses
import sys

from kiara_cli.commands.knowledge import KnowledgeOption, knowledge_of, open_knowledge
from kiara_cli.commands.options import ConfigFiles, Debug, Words, read


def chat(
    words: Words = None, config: ConfigFiles = None, knowledge: KnowledgeOption = None, debug: Debug = False
) -> None:
    """Talk with a model: kiara chat, or kiara chat checkpoints/best.pt."""
    from kiara_cli.commands.model import open_model
    from kiara_cli.console import repl, slash
    from kiara_cli.console.talk import Talk

    given = read(words, config, command="chat")
    known = knowledge_of(knowledge, given)  # a wrong name is said before a model is opened
    opened = open_model(given)
    from kiara_cli.core.chat.session import Session

    talks, settings = opened.conversations, opened.config
    session = Session(opened.engine(), opened.tokenizer, settings.generate, settings.chat, conversations=talks)
    session.knowledge = known
    in_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    talk = Talk(
        session,
        str(opened.checkpoint.path),
        lambda word: open_model(dataclasses.replace(given, word=word), runtime=opened.runtime),
        lambda name: open_knowledge(name, given),
        in_terminal,
    )
    slash.warn_of_transcript(talk)
    if in_terminal:
        repl.hold(talk)
    else:
        repl.answer_lines(talk, sys.stdin.buffer)
