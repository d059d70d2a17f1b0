"""One id per word or punctuation mark, the most frequent ones.

In: text to count words in. Out: a tokenizer in which any other word is unknown. A word keeps the space before it, so
decoding is joining; runs of other white space are kept character by character.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.tokenizer.protocol import SPECIALS, Native

WORD = re.compile(r" ?\w+| ?[^\w\s]|\s")
UNKNOWN = ("\ufffd", " \ufffd")  # of a word without and with a space before it


class WordTokenizer(Native):
    """Words by falling frequency, then the two unknown tokens, then the special tokens."""

    kind = "word"

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self._ids = {word: index for index, word in enumerate(words)}
        self._bytes = [word.encode("utf-8", errors="replace") for word in (*words, *UNKNOWN)] + [b""] * len(SPECIALS)

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int) -> WordTokenizer:
        """Give ids to the most frequent words until there are `vocab_size` in all; fewer where there are fewer."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(WORD.findall(text))
        ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return cls([word for word, _ in ranked[: vocab_size - len(UNKNOWN) - len(SPECIALS)]])

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> WordTokenizer:
        """Rebuild from what `state` returned. Raises ValueError if it is not that."""
        words = state["words"]
        if not isinstance(words, list) or len(set(words)) != len(words):
            raise ValueError("words must be a list without repeats")
        if not all(isinstance(word, str) and WORD.fullmatch(word) for word in words):
            raise ValueError("each word must be one word or mark")
        return cls(words)

    @property
    def size(self) -> int:
        return len(self._bytes)

    @property
    def unknowns(self) -> frozenset[int]:
        return frozenset(range(len(self.words), len(self.words) + len(UNKNOWN)))

    @property
    def specials(self) -> dict[str, int]:
        return {name: len(self.words) + len(UNKNOWN) + index for index, name in enumerate(SPECIALS)}

    def encode(self, text: str) -> list[int]:
        get, unknown = self._ids.get, len(self.words)
        return [get(word, unknown + word.startswith(" ")) for word in WORD.findall(text)]

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        return np.array(self.encode(text), dtype=np.uint32)

    def encode_byte(self, byte: int) -> int:
        return len(self.words)

    def token_bytes(self, token: int) -> bytes:
        return self._bytes[token]

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind, "words": self.words}
