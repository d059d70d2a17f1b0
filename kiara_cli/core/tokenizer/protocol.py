"""What every tokenizer offers, and the special tokens that all of them share.

In: text. Out: ids in 0 … size-1, and text again. Special tokens are inserted by id, never parsed from text,
so a person who types "<|end|>" gets those seven characters and nothing else.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

END_OF_TEXT = "<|endoftext|>"  # stands before each document
SPECIALS = (
    END_OF_TEXT,
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)  # the last four: turns of a chat


class Tokenizer(Protocol):
    """Text to ids and back."""

    kind: str

    @property
    def size(self) -> int:
        """How many ids there are, special ones included."""

    @property
    def specials(self) -> dict[str, int]:
        """The id of each special token."""

    @property
    def prefix(self) -> tuple[int, ...]:
        """Ids that stand before every text that a model is to continue."""

    @property
    def start(self) -> int:
        """What an empty text begins with."""

    @property
    def ends(self) -> frozenset[int]:
        """Ids that end a text."""

    @property
    def lead(self) -> bytes:
        """What the first token of a text has and the text has not: a blank, or nothing."""

    @property
    def fallback(self) -> frozenset[int]:
        """Ids of single bytes that stand for what has no token: see `ByteStream`."""

    @property
    def unknowns(self) -> frozenset[int]:
        """Ids that stand for any text that has no id of its own: what it was cannot be told from them."""

    def encode(self, text: str) -> list[int]:
        """Turn text into ids; never yields a special id except the unknown token's."""

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        """Return what `encode` returns, (n,), by the quickest way there is."""

    def encode_byte(self, byte: int) -> int:
        """Return the id of a byte that is no part of any UTF-8 character."""

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes one id stands for: none for a special id."""

    def state(self) -> dict[str, Any]:
        """Return all there is to it as JSON values; `files.from_state` turns it back."""


class Native:
    """What Kiara's own tokenizers have in common: nothing stands before a text, one special token ends it."""

    prefix: tuple[int, ...] = ()
    lead = b""
    fallback: frozenset[int] = frozenset()

    @property
    def unknowns(self) -> frozenset[int]:
        return frozenset()

    @property
    def specials(self) -> dict[str, int]:
        raise NotImplementedError

    @property
    def start(self) -> int:
        return self.specials[END_OF_TEXT]

    @property
    def ends(self) -> frozenset[int]:
        return frozenset({self.start})


_STRAY = re.compile("[\\udc80-\\udcff]")  # what the error handler surrogateescape makes of broken UTF-8


def encode_bytes(tokenizer: Tokenizer, raw: bytes) -> list[int]:
    """Turn any bytes into ids: text as text, and what is no UTF-8 byte by byte."""
    text, ids, start = raw.decode("utf-8", errors="surrogateescape"), [], 0
    for stray in _STRAY.finditer(text):
        ids += tokenizer.encode(text[start : stray.start()])
        ids.append(tokenizer.encode_byte(ord(stray.group()) - 0xDC00))
        start = stray.end()
    return ids + tokenizer.encode(text[start:])


def prompt_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return what a model reads to continue a text; an empty one starts a document."""
    return [*tokenizer.prefix, *tokenizer.encode(text)] or [tokenizer.start]


def document_start(tokenizer: Tokenizer) -> list[int]:
    """Return what stands before each document: the end of the one before, and what stands before every text."""
    end = tokenizer.specials[END_OF_TEXT]
    return [end, *tokenizer.prefix] if tokenizer.prefix != (end,) else [end]


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Turn ids into text; bytes that are no UTF-8 become U+FFFD."""
    stream = ByteStream(tokenizer, begins=True)
    return b"".join([*map(stream.push, ids), stream.end()]).decode("utf-8", errors="replace")


class ByteStream:
    """The bytes of ids, one after the other.

    A run of single bytes, as SentencePiece falls back to, is held until it ends: if it is no UTF-8, each byte of it
    becomes U+FFFD, as in Hugging Face's decoder. `begins`: the ids are those of a text from its beginning.
    """

    def __init__(self, tokenizer: Tokenizer, begins: bool) -> None:
        self._tokenizer = tokenizer
        self._lead = tokenizer.lead if begins else b""
        self._run = b""

    def push(self, token: int) -> bytes:
        """Take an id; return the bytes that have become certain."""
        data = self._tokenizer.token_bytes(token)
        if token in self._tokenizer.fallback:
            self._run += data
            return b""
        return self._certain(data) if data else b""  # a special token ends no run

    def end(self) -> bytes:
        """Return what was held back."""
        return self._certain(b"")

    def _certain(self, data: bytes) -> bytes:
        try:
            self._run.decode()
        except UnicodeDecodeError:
            self._run = "\ufffd".encode() * len(self._run)
        data, self._run = self._run + data, b""
        if data and self._lead:
            data, self._lead = data.removeprefix(self._lead), b""
        return data


def incremental_decoder() -> codecs.IncrementalDecoder:
    """Return a decoder that holds back the bytes of a half character until the rest arrives."""
    return codecs.getincrementaldecoder("utf-8")(errors="replace")


def fingerprint(tokenizer: Tokenizer) -> str:
    """Return the SHA-256 of the tokenizer's canonical JSON: equal exactly when all ids mean the same."""
    text = json.dumps(tokenizer.state(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
