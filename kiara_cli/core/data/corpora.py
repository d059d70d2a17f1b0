"""Corpora by name. So far there is one, `tales`, which is written on this machine and needs no download.

In: the data section of a config. Out: documents, and a text that tells this corpus from any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kiara_cli.config.schema import DataConfig
from kiara_cli.core.data.documents import Document, conversation
from kiara_cli.core.data.tales import corpus as tales


@dataclass(frozen=True)
class Corpus:
    """A corpus that a bare word in data.source names."""

    identity: Callable[[DataConfig], str]  # equal exactly when the documents are
    documents: Callable[[DataConfig], Iterable[Document]]


def _tales(data: DataConfig) -> Iterable[Document]:
    for number, talk in enumerate(tales.conversations(data.corpus_seed, data.corpus_bytes)):
        yield conversation(f"tales:{number}", talk["messages"])


CORPORA = {
    "tales": Corpus(lambda data: f"tales {tales.VERSION} {data.corpus_seed} {data.corpus_bytes}", _tales),
}
