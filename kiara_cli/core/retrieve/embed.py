"""Text → vectors: one protocol, and what a person typed (retrieve.embedder) → one of four embedders.

In: a word, or what an index says of its embedder. Out: an `Embedder`. An index is searched with what made it,
and refuses another: its kind and its hash are in the index.

| word                               | embedder                                                                    |
|------------------------------------|-----------------------------------------------------------------------------|
| tfidf                              | TF-IDF with truncated SVD, fitted on the documents: tfidf.py                |
| a checkpoint, as commands find it  | mean states of a Kiara model: states.py                                     |
| http://… or https://…              | an OpenAI-compatible server's /embeddings: address.py                       |
| a folder with modules.json         | a sentence-transformers model: sentences.py                                 |
| none                               | no vectors, BM25 alone                                                      |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kiara_cli.config.folders import expanded
from kiara_cli.config.load import Loaded, from_mapping
from kiara_cli.config.schema import RetrieveConfig
from kiara_cli.core.data.places import is_address
from kiara_cli.core.retrieve.tfidf import TfIdf
from kiara_cli.errors import KiaraError

AUTO, NONE = "auto", "none"


class Embedder(Protocol):
    """Makes vectors of length 1, so that the product of two says how alike two texts are."""

    kind: str
    dimensions: int
    fits: bool  # whether it learns from the documents of an index
    weight: float  # of its ranking in the fusion; BM25's counts 1

    def identity(self) -> dict[str, Any]:
        """Return what tells it from others, as JSON values: `kind`, `word`, and a hash where it has files."""

    def fit(self, texts: Sequence[str]) -> None:
        """Learn from the documents of an index."""

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts, (N, D). Raises KiaraError."""

    def question(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a question, (D,). Raises KiaraError."""

    def save(self, folder: Path) -> None:
        """Write what was learned."""

    def load(self, folder: Path) -> None:
        """Read what was learned."""


@dataclass(frozen=True)
class Means:
    """What an embedder may use: the layers of the config, and the key for an address."""

    loaded: Loaded = field(default_factory=lambda: from_mapping({}, "retrieve"))
    key: str = ""

    @property
    def settings(self) -> RetrieveConfig:
        return self.loaded.config.retrieve


def choose(word: str, means: Means) -> Embedder | None:
    """Return the embedder that a word means, not fitted yet; None for none. Raises KiaraError."""
    if word == NONE:
        return None
    if word in (AUTO, TfIdf.kind):
        return TfIdf(means.settings.dimensions)
    if is_address(word):
        from kiara_cli.core.retrieve.address import Address

        return Address(word, means.settings.embedding_model, means.key)
    if (expanded(word) / "modules.json").is_file():
        from kiara_cli.core.retrieve.sentences import Sentences

        return Sentences(expanded(word))
    from kiara_cli.core.retrieve.states import States

    return States(word, means.loaded)


def reopen(identity: dict[str, Any], folder: Path, means: Means, name: str) -> Embedder | None:
    """Return the embedder that made an index, with what it learned. Raises KiaraError for one that has changed."""
    if not identity:
        return None
    embedder = choose(identity["word"], means)
    if embedder is None or (now := embedder.identity()) != identity:
        what = "has changed since" if embedder is not None and now["word"] == identity["word"] else "is another one"
        raise KiaraError(
            f"the index {name} was made with the embedder {identity['word']}, which {what}", rebuild(name)
        )
    embedder.load(folder)
    return embedder


def rebuild(name: str) -> str:
    """Say how to make all vectors of an index anew."""
    return f"make its vectors anew: kiara index --name {name} --rebuild"
