"""The option --knowledge, and the opening of the indexes that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kiara_cli.commands.options import Given

if TYPE_CHECKING:
    from kiara_cli.core.retrieve.prompt import Knowledge

OFF = "off"
KnowledgeOption = Annotated[
    str | None,
    typer.Option("--knowledge", metavar="NAME", help="Put passages of this index before a question; off: of none."),
]


def open_knowledge(name: str, given: Given) -> Knowledge:
    """Open the index of a name or folder. Raises KiaraError."""
    from kiara_cli.commands.model import set_spin

    set_spin()  # an embedder may need torch
    from kiara_cli.core.retrieve.prompt import Knowledge
    from kiara_cli.core.retrieve.search import open_index

    index = open_index(name)
    passages = given.loaded.values.get("retrieve.passages", Knowledge.passages)
    return Knowledge(index.name, index, passages)


def knowledge_of(option: str | None, given: Given) -> Knowledge | None:
    """Open the index that the option names, or the config; None without one. Raises KiaraError."""
    name = option or given.loaded.values.get("retrieve.knowledge")
    return None if name is None or name == OFF else open_knowledge(name, given)
