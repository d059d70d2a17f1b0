"""A conversation and an index: the newest question with passages before it, within what the model reads.

In: messages, an open index, a number of tokens. Out: the messages as the model reads them, and the sources. What a
person said is kept without passages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kiara_cli.core.retrieve.prompt import Grounded, Knowledge, ground
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.conversation import Template
from kiara_cli.core.tokenizer.protocol import prompt_ids

SHARE = 2  # passages take at most one part in so many of the prompt: the talk before needs room, and the reply too


def newest_question(turns: Sequence[Message]) -> int | None:
    """Return the place of what a person said last; None where nobody has said anything."""
    return next((i for i in reversed(range(len(turns))) if turns[i]["role"] == "user"), None)


def consult(
    knowledge: Knowledge,
    template: Template,
    system: Sequence[Message],
    turns: Sequence[Message],
    budget: int,
    continued: bool = False,
) -> Grounded | None:
    """Search for the newest question; return it with the passages that fit into `budget` tokens beside it.

    None where there is no question. Raises KiaraError where the index cannot be searched, or the model's template
    refuses the conversation.
    """
    place = newest_question(turns)
    if place is None or not turns[place]["content"].strip():
        return None
    before = newest_question(turns[:place])

    def tokens(text: str) -> int:
        return len(template.encode([*system, {"role": "user", "content": text}, *turns[place + 1 :]], continued))

    former = None if before is None else turns[before]["content"]
    return _fitted(knowledge, turns[place]["content"], former, template, tokens, budget)


def prompt_with(knowledge: Knowledge, template: Template, text: str, budget: int) -> tuple[list[int], Grounded]:
    """Return the ids of one question with its passages: a turn for a model that answers, else a text to continue.

    Raises KiaraError as `consult` does.
    """

    def ids(text: str) -> list[int]:
        if template.kind == "transcript":
            return prompt_ids(template.tokenizer, text)
        return template.encode([{"role": "user", "content": text}])

    grounded = _fitted(knowledge, text, None, template, lambda text: len(ids(text)), budget)
    return ids(grounded.text), grounded


def _fitted(
    knowledge: Knowledge,
    question: str,
    former: str | None,
    template: Template,
    tokens: Callable[[str], int],
    budget: int,
) -> Grounded:
    """Put what is found before a question, given how many tokens the prompt has with a text in its place."""
    alone = tokens(question)
    if alone >= budget:
        return Grounded(question)
    room = min(budget, alone + budget // SHARE)
    found = knowledge.search(question, former)
    return ground(question, found, lambda text: tokens(text) <= room, template.harmless)


def as_read(turns: Sequence[Message], grounded: Grounded | None) -> list[Message]:
    """Return a conversation as the model reads it: the newest question with its passages."""
    place = newest_question(turns)
    if grounded is None or place is None:
        return list(turns)
    return [*turns[:place], {**turns[place], "content": grounded.text}, *turns[place + 1 :]]
