"""The option --knowledge, and the opening of the indexes that it names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from kiara_cli.commands import completion
from kiara_cli.commands.options import Given
from kiara_cli.config.folders import expanded
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from kiara_cli.core.retrieve.embed import Means
    from kiara_cli.core.retrieve.prompt import Knowledge

KEY_VARIABLE = "KIARA_EMBEDDINGS_KEY"

OFF = "off"
KnowledgeOption = Annotated[
    str | None,
    typer.Option(
        "--knowledge",
        metavar="NAME",
        help="Put passages of this index before a question; off: of none.",
        autocompletion=completion.indexes,
    ),
]


def open_knowledge(name: str, given: Given) -> Knowledge:
    """Open the index of a name or folder. Raises KiaraError."""
    from kiara_cli.commands.model import set_spin

    set_spin()  # an embedder may need torch
    from kiara_cli.core.retrieve.prompt import Knowledge
    from kiara_cli.core.retrieve.search import open_index

    means = means_of(given)
    index = open_index(name, means=means)
    return Knowledge(index.name, index, means.settings.passages)


def means_of(given: Given) -> Means:
    """Return what an embedder may use: the config, and the key of its address. Raises KiaraError."""
    from kiara_cli.core.retrieve.embed import Means

    path = given.loaded.config.retrieve.embedding_key_file
    if path is None:
        return Means(given.loaded, os.environ.get(KEY_VARIABLE, "").strip())
    try:
        return Means(given.loaded, expanded(path).read_text(encoding="utf-8-sig").strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise KiaraError(f"cannot read the key in {path}: {reason}", "give a file that holds the key alone") from None


def knowledge_of(option: str | None, given: Given) -> Knowledge | None:
    """Open the index that the option names, or the config; None without one. Raises KiaraError."""
    name = option or given.loaded.values.get("retrieve.knowledge")
    return open_knowledge(name, given) if name and name != OFF else None
