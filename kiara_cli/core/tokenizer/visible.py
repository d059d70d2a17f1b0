"""Bytes as printable characters, one each, as GPT-2's vocabulary and those after it are written.

In: bytes. Out: text, and back. Printable bytes show as themselves, the others are moved up to 256 and beyond.
"""

from __future__ import annotations

_MOVED = [*range(0x21), *range(0x7F, 0xA1), 0xAD]
_SHOWN = {byte: 256 + index for index, byte in enumerate(_MOVED)}
_BYTES = {chr(_SHOWN.get(byte, byte)): byte for byte in range(256)}


def visible(token: bytes) -> str:
    """Write bytes as printable characters."""
    return token.decode("latin-1").translate(_SHOWN)


def hidden(text: str) -> bytes | None:
    """Undo `visible`; None for a text that it never writes."""
    try:
        return bytes(_BYTES[character] for character in text)
    except KeyError:
        return None
