"""Documents to ids, on all cores: a bounded queue from the reader over the encoders to whoever takes the ids.

In: documents and the side each is on. Out: batches of ids in the same order, with what they hold.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.data.documents import Document
from kiara_cli.core.data.shards import dtype_for
from kiara_cli.core.tokenizer.chat_format import encode_conversation
from kiara_cli.core.tokenizer.protocol import Tokenizer, document_start
from kiara_cli.errors import KiaraError

BATCH = 1 << 18  # characters that an encoder takes at once
TRIM = 32  # batches between two times that memory is given back

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Counts:
    """What some tokens hold."""

    documents: int = 0
    conversations: int = 0
    bytes: int = 0  # of UTF-8 text
    tokens: int = 0
    pairs: int = 0  # of conversations, of which the first is preferred to the one after it

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.documents + other.documents,
            self.conversations + other.conversations,
            self.bytes + other.bytes,
            self.tokens + other.tokens,
            self.pairs + other.pairs,
        )


@dataclass(frozen=True)
class Encoded:
    """The ids of a batch of documents, training and held-out side, (n,) each."""

    ids: tuple[NDArray[Any], NDArray[Any]]
    counts: tuple[Counts, Counts]


def in_batches(sides: Iterable[tuple[Document, bool]]) -> Iterator[list[tuple[Document, bool]]]:
    """Gather documents until there is enough work for one encoder."""
    batch, size = [], 0
    for document, held_out in sides:
        batch.append((document, held_out))
        size += len(document.text) if document.ids is None else len(document.ids)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encode_batch(batch: Iterable[tuple[Document, bool]], tokenizer: Tokenizer) -> Encoded:
    """Encode documents; each opens with the end-of-text mark."""
    ids: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])
    counts = [Counts(), Counts()]
    dtype = dtype_for(tokenizer.size)
    for document, held_out in batch:
        made = encode_document(document, tokenizer).astype(dtype)
        size = len(document.text.encode()) if document.ids is None else bytes_of(made, tokenizer)
        ids[held_out].append(made)
        pair = document.rejected is not None
        whole = not (document.continues or document.held_out)
        counts[held_out] += Counts(whole, bool(document.messages) + pair, size, len(made), pair)
    train, val = (np.concatenate([np.empty(0, dtype), *side]) for side in ids)
    return Encoded((train, val), (counts[0], counts[1]))


def encode_document(document: Document, tokenizer: Tokenizer) -> NDArray[np.uint32]:
    """Return the ids of a document, the end-of-text mark first. Raises KiaraError for ids that are none."""
    mark = np.array(document_start(tokenizer), dtype=np.uint32)
    if document.messages:
        ids = encode_conversation(document.messages, tokenizer)[0]
        if document.rejected is not None:
            other = [*document.messages[:-1], {"role": "assistant", "content": document.rejected}]
            ids += encode_conversation(other, tokenizer)[0]
        return np.array(ids, dtype=np.uint32)
    if document.ids is not None:
        given = document.ids.astype(np.uint32)
        if len(given) and int(given.max()) >= tokenizer.size:
            raise KiaraError(
                f"{document.origin} holds the id {int(given.max()):,}, the tokenizer has {tokenizer.size:,}",
                "give the tokenizer that made them: --tokenizer FILE, or tokenizer.kind=gpt2",
            )
        return np.concatenate([mark, given[:-1] if len(given) and given[-1] == mark[0] else given])
    found = tokenizer.encode_array(document.text)
    return found if document.continues else np.concatenate([mark, found])


def encode_documents(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[NDArray[np.uint32]]:
    """Yield the ids of each document."""
    return (encode_document(document, tokenizer) for document in documents)


def give_memory_back() -> None:
    """Return freed pages to the system where the C library can be asked to: large pieces of text that come and go on
    several threads leave holes, which would add up to a peak that grows with the size of the text."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def in_order(work: Callable[[Given], Made], given: Iterable[Given], threads: int) -> Generator[Made, None, None]:
    """Yield `work` of each thing given, in order, done by `threads` threads that are at most a little ahead."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for number, thing in enumerate(given):
                waiting.append(pool.submit(work, thing))
                if number % TRIM == 0:
                    give_memory_back()
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def bytes_of(ids: NDArray[Any], tokenizer: Tokenizer) -> int:
    """Count the bytes that ids stand for."""
    tokens, counts = np.unique(ids, return_counts=True)
    lengths = np.array([len(tokenizer.token_bytes(token)) for token in tokens.tolist()], dtype=np.int64)
    return int(lengths @ counts)
