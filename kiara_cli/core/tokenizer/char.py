"""One id per character.

In: the characters of a text, or printable ASCII. Out: a tokenizer in which any other character is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.tokenizer.protocol import SPECIALS, Native

UNKNOWN = "<|unknown|>"
ASCII = "\t\n" + "".join(map(chr, range(32, 127)))


class CharTokenizer(Native):
    """Characters in code point order, then the unknown token, then the special tokens."""

    kind = "char"

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self._ids = {character: index for index, character in enumerate(characters)}
        self._bytes = [character.encode("utf-8", errors="replace") for character in characters]
        self._bytes += ["\ufffd".encode()] + [b""] * len(SPECIALS)
        codes = [ord(character) for character in characters]
        self._table = np.full(max(codes, default=0) + 2, len(characters), dtype=np.uint32)  # code point → id
        self._table[codes] = np.arange(len(characters))

    @classmethod
    def fit(cls, texts: Iterable[str]) -> CharTokenizer:
        """Give an id to every character that occurs."""
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        return cls("".join(sorted(seen)))

    @classmethod
    def ascii(cls) -> CharTokenizer:
        """Give an id to tab, newline and the 95 printable ASCII characters."""
        return cls(ASCII)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> CharTokenizer:
        """Rebuild from what `state` returned. Raises ValueError if it is not that."""
        characters = state["characters"]
        if not isinstance(characters, str) or len(set(characters)) != len(characters):
            raise ValueError("characters must be a text without repeats")
        return cls(characters)

    @property
    def unknown(self) -> int:
        """The id of any character that was not fitted; written back as U+FFFD."""
        return len(self.characters)

    @property
    def unknowns(self) -> frozenset[int]:
        return frozenset({self.unknown})

    @property
    def size(self) -> int:
        return len(self.characters) + 1 + len(SPECIALS)

    @property
    def specials(self) -> dict[str, int]:
        return {name: self.unknown + 1 + index for index, name in enumerate(SPECIALS)}

    def encode(self, text: str) -> list[int]:
        get, unknown = self._ids.get, self.unknown
        return [get(character, unknown) for character in text]

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
        ids: NDArray[np.uint32] = self._table[np.minimum(codes, len(self._table) - 1)]
        return ids

    def encode_byte(self, byte: int) -> int:
        return self.unknown

    def token_bytes(self, token: int) -> bytes:
        return self._bytes[token]

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind, "characters": self.characters}
