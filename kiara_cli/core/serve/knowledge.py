"""Which index a request is answered from, and its sources as JSON.

In: the field `knowledge` of a body. Out: an index that was opened when the server started: a name is looked up, never
a path, so that a client opens nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from kiara_cli.core.chat.fit import prompt_budget
from kiara_cli.core.chat.knowledge import consult, prompt_with
from kiara_cli.core.retrieve.prompt import Grounded, Knowledge, Unsearchable
from kiara_cli.core.serve.refusals import Refusal
from kiara_cli.core.serve.served import Served
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.protocol import prompt_ids
from kiara_cli.errors import KiaraError

OFF = "off"
Named: TypeAlias = str | bool | None
Record: TypeAlias = dict[str, Any]


def find_knowledge(named: Named, served: Served, by_default: bool) -> Knowledge | None:
    """Return the index that a client names: true is the server's own choice, false or "off" none. Raises Refusal.

    null, or the field left out, is the server's own choice where `by_default`, and none elsewhere.
    """
    if named is False or named == OFF:
        return None
    if named is None:
        return served.knowledge[served.consulted] if by_default and served.consulted is not None else None
    if named is True:
        wanted = served.consulted or next(iter(served.knowledge), None)
        if wanted is None:
            raise Refusal(400, "this server has no knowledge; leave knowledge out", "knowledge")
        return served.knowledge[wanted]
    if named in served.knowledge:
        return served.knowledge[named]
    there = ", ".join(map(repr, served.knowledge))
    what = f"there is {there}" if there else "it was started without any (kiara serve --knowledge NAME)"
    raise Refusal(404, f"this server has no knowledge {named[:200]!r}; {what}", "knowledge", "knowledge_not_found")


def consult_for(
    knowledge: Knowledge | None,
    served: Served,
    system: Sequence[Message],
    turns: Sequence[Message],
    length: int,
    continued: bool,
) -> Grounded | None:
    """Search for the newest question of a conversation; None without an index or a question.

    Raises Refusal where the index cannot be searched, KiaraError where the template refuses the conversation.
    """
    if knowledge is None:
        return None
    try:
        budget = prompt_budget(served.context, length)
        return consult(knowledge, served.template, system, turns, budget, continued)
    except Unsearchable as error:
        raise unsearchable(error) from None


def read_question(text: str, served: Served, length: int, knowledge: Knowledge | None) -> tuple[list[int], Record]:
    """Return the ids of a text to continue, or of a question with its passages, and what the reply says of them."""
    if knowledge is None:
        return prompt_ids(served.tokenizer, text), {}
    if not text.strip():
        raise Refusal(400, "an empty prompt asks nothing; leave knowledge out", "prompt")
    try:
        ids, grounded = prompt_with(knowledge, served.template, text, prompt_budget(served.context, length))
    except Unsearchable as error:
        raise unsearchable(error) from None
    except KiaraError as error:  # the model's own template
        raise Refusal(400, f"{error.cause}; {error.remedy}", "prompt") from None
    return ids, record(knowledge, grounded)


def unsearchable(error: Unsearchable) -> Refusal:
    """Return the refusal of a request whose index does not answer."""
    return Refusal(503, f"the knowledge cannot be searched: {error.cause}", "knowledge", "knowledge_unavailable")


def record(knowledge: Knowledge, grounded: Grounded | None) -> Record:
    """Return what a reply says of the passages it was given."""
    sources = grounded.sources if grounded is not None else ()
    return {"knowledge": knowledge.name, "sources": [source.record() for source in sources]}
