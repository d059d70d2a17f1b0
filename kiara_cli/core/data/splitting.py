"""Which documents are held out for validation: decided by what they say, so always the same ones.

In: documents and the share to hold out. Out: a rule, and with it the documents of each side. Of one document alone
the end is held out; of several, those whose content hash falls below a limit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kiara_cli.core.data.documents import Document
from kiara_cli.errors import KiaraError


@dataclass(frozen=True)
class Split:
    """Either a limit on the documents' draws, or the place where the only document is cut."""

    limit: float = 0.0
    cut: int | None = None  # characters

    def sides(self, documents: Iterable[Document]) -> Iterator[tuple[Document, bool]]:
        """Yield each document, or part of one, and whether it is held out."""
        if self.cut is None:
            for document in documents:
                yield document, document.draw < self.limit
            return
        at = 0
        for document in documents:
            text, start = document.text, at
            at += len(text)
            if at <= self.cut or start >= self.cut:
                again = start == self.cut  # what is held out opens as a document of its own
                yield (
                    dataclasses.replace(document, messages=(), continues=document.continues and not again),
                    (start >= self.cut),
                )
                continue
            here = self.cut - start
            yield dataclasses.replace(document, text=text[:here], messages=()), False
            yield dataclasses.replace(document, text=text[here:], messages=(), continues=False), True


def decide(documents: Iterable[Document], fraction: float, source: str) -> Split:
    """Find the rule that holds about `fraction` out, at least one document and not all of them.

    Reads no further than needed: until there is one document for each side. Raises KiaraError.
    """
    count = characters = 0
    lowest, highest = 2.0, -1.0
    for document in documents:
        characters += len(document.text)
        if document.continues:
            continue
        count += 1
        lowest, highest = min(lowest, document.draw), max(highest, document.draw)
        if count > 1 and lowest < fraction <= highest:
            return Split(limit=fraction)
    if count == 0:
        raise KiaraError(f"{source} is empty", "give a file with some text in it, 1 KB or more")
    if count == 1:
        return Split(cut=min(characters - 1, int(characters * (1 - fraction))))
    limit = min(max(fraction, lowest * 1.0000001), highest)
    if not lowest < limit:
        raise KiaraError(
            "all documents hold the same text, none can be held out", "give data.val_source, or one document"
        )
    return Split(limit=limit)
