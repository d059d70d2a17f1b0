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


_STRAY = re.compile("[\\udc80-\\udcff]")  # what the error handler surrogateescape makes of broken UTF-8


def encode_bytes(tokenizer: Tokenizer, raw: bytes) -> list[int]:
    """Turn any bytes into ids: text as text, and what is no UTF-8 byte by byte."""
    text, ids, start = raw.decode("utf-8", errors="surrogateescape"), [], 0
    for stray in _STRAY.finditer(text):
        ids += tokenizer.encode(text[start : stray.start()])
        ids.append(tokenizer.encode_byte(ord(stray.group()) - 0xDC00))
        start = stray.end()
    return ids + tokenizer.encode(text[start:])


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Turn ids into text; bytes that are no UTF-8 become U+FFFD."""
    return b"".join(tokenizer.token_bytes(token) for token in ids).decode("utf-8", errors="replace")


def incremental_decoder() -> codecs.IncrementalDecoder:
    """Return a decoder that holds back the bytes of a half character until the rest arrives."""
    return codecs.getincrementaldecoder("utf-8")(errors="replace")


def fingerprint(tokenizer: Tokenizer) -> str:
    """Return the SHA-256 of the tokenizer's canonical JSON: equal exactly when all ids mean the same."""
    text = json.dumps(tokenizer.state(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
