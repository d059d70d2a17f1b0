"""What text is made of before it is ids: documents, and the encodings their bytes may have.

In: bytes. Out: text. Reading never fails on a stray byte; what is not text at all is refused.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.protocol import incremental_decoder
from kiara_cli.errors import KiaraError

BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
HEAD = 10_000  # characters that are searched for control codes
CHUNK = 1 << 20  # bytes read at a time from a long file


@dataclass(frozen=True)
class Document:
    """One text and where it came from; documents are the unit that a validation split keeps whole.

    A long text comes as several of these, one after the other; each but the first `continues` the one before.
    """

    origin: str
    text: str  # of a conversation: all that is said
    messages: tuple[Message, ...] = ()
    continues: bool = False
    whole: str = ""  # the content hash of the whole text where this is a part of it
    ids: NDArray[Any] | None = None  # of a document that was tokenized elsewhere

    @cached_property
    def content(self) -> str:
        """The SHA-256 of the whole text."""
        return self.whole or hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def draw(self) -> float:
        """A number in 0 … 1 that decides whether the document is held out, the same on every machine."""
        return int(self.content[:16], 16) / 2**64


def conversation(origin: str, messages: Sequence[Message]) -> Document:
    """Make a document of a conversation."""
    return Document(origin, "\n".join(message["content"] for message in messages), tuple(messages))


def read_text(path: Path) -> str:
    """Read a text file whatever its encoding: see `decode_text`. Raises KiaraError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise KiaraError(f"cannot read {path}: {reason}", "check the path and its permissions") from None
    return decode_text(raw, str(path))


def decode_text(raw: bytes, origin: str) -> str:
    """Decode bytes: a byte-order mark decides; then UTF-8; then whichever of two repairs loses less.

    A few stray bytes in UTF-8 become U+FFFD; a text with more broken sequences than whole ones is read as
    Windows-1252. Newlines are kept as they are, but \\r\\n becomes \\n. Raises KiaraError for binary data.
    """
    return "".join(decode_chunks(iter([raw]), sniff(iter([raw]), origin)))


def sniff(chunks: Iterator[bytes], origin: str) -> str:
    """Return the encoding of a text: utf-8, utf-8-sig, utf-16 or cp1252. Raises KiaraError for binary data."""
    encoding, head = "", ""
    decoder: codecs.IncrementalDecoder = incremental_decoder()
    characters = ascii_bytes = broken = 0
    for raw in chunks:
        if not encoding:
            encoding = next((name for bom, name in BOMS.items() if raw.startswith(bom)), "utf-8")
            decoder = codecs.getincrementaldecoder(encoding)("replace")
        if encoding != "utf-16" and b"\0" in raw:
            raise KiaraError(f"{origin} is a binary file, not text (it holds NUL bytes)", "give a text file")
        text = decoder.decode(raw)
        if len(head) < HEAD:
            head += text[: HEAD - len(head)]
        if not text.isascii():
            broken += text.count("\ufffd")
            characters += len(text)
            ascii_bytes += int(np.count_nonzero(np.frombuffer(raw, dtype=np.uint8) < 0x80))
    whole = characters - ascii_bytes - broken
    controls = sum(head.count(chr(code)) for code in (*range(9), *range(14, 27), *range(28, 32)))
    if controls > 0.05 * len(head):
        raise KiaraError(f"{origin} is a binary file, not text (it is full of control codes)", "give a text file")
    return "cp1252" if encoding == "utf-8" and broken > whole else encoding or "utf-8"


def decode_chunks(chunks: Iterator[bytes], encoding: str) -> Iterator[str]:
    """Decode a text piece by piece; joined, the pieces are the whole."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    held = ""  # a carriage return whose newline may be in the next chunk
    for raw in chunks:
        text = held + decoder.decode(raw)
        held = "\r" if text.endswith("\r") else ""
        yield text[: len(text) - len(held)].replace("\r\n", "\n")
    yield held + decoder.decode(b"", final=True)
