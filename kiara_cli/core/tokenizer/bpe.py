"""Byte-level byte-pair encoding, trained by rustbpe and run by tiktoken.

In: text to learn merges from. Out: a tokenizer that encodes any text without an unknown token.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from typing import Any

import rustbpe
import tiktoken

from kiara_cli.core.tokenizer.protocol import SPECIALS

# The split pattern of rustbpe, GPT-4's with possessive quantifiers: what llama.cpp calls "llama-bpe".
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
PIECE = 200_000  # characters; runs of some 400,000 spaces make both libraries panic
BYTES_PER_MERGE = 64  # of text, at least, for each merge learned (a guess): less would memorize, not compress
_BREAK = re.compile(r"\n(?=\S)")


class BPETokenizer:
    """256 bytes, then merges in the order they were learned, then the special tokens."""

    kind = "bpe"

    def __init__(self, tokens: list[bytes], pattern: str = PATTERN) -> None:
        self.tokens = tokens
        self.pattern = pattern
        ranks = {token: rank for rank, token in enumerate(tokens)}
        if len(ranks) != len(tokens) or not all(bytes([byte]) in ranks for byte in range(256)):
            raise ValueError("a BPE vocabulary holds each of the 256 bytes, and no token twice")
        self._encoding = tiktoken.Encoding("kiara", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int) -> BPETokenizer:
        """Learn merges until there are `vocab_size` ids in all, special tokens included.

        Yields fewer where the text is too small to earn them: see BYTES_PER_MERGE.
        """
        read = 0

        def pieces() -> Iterator[str]:
            nonlocal read
            for text in texts:
                for piece in split(text):
                    read += len(piece)
                    yield piece

        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(pieces(), vocab_size - len(SPECIALS), pattern=PATTERN)
        ranked = sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])
        earned = 256 + read // BYTES_PER_MERGE
        # Two pairs can spell the same bytes (ab+c, a+bc); tiktoken knows tokens by their bytes, the first one wins.
        return cls(list(dict.fromkeys(bytes(token) for token, _ in ranked[:earned])))

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> BPETokenizer:
        """Rebuild from what `state` returned. Raises ValueError if it is not that."""
        return cls([base64.b64decode(token) for token in state["tokens"]], state["pattern"])

    @property
    def size(self) -> int:
        return len(self.tokens) + len(SPECIALS)

    @property
    def specials(self) -> dict[str, int]:
        return {name: len(self.tokens) + index for index, name in enumerate(SPECIALS)}

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in split(text):
            ids += self._encoding.encode_ordinary(piece)
        return ids

    def token_bytes(self, token: int) -> bytes:
        return self.tokens[token] if token < len(self.tokens) else b""

    def state(self) -> dict[str, Any]:
        tokens = [base64.b64encode(token).decode() for token in self.tokens]
        return {"kind": self.kind, "pattern": self.pattern, "tokens": tokens}


def split(text: str, limit: int = PIECE) -> Iterator[str]:
    """Cut text into pieces of at most `limit` characters.

    Cuts after a newline that a visible character follows, where no split pattern of the GPT family joins the
    two sides, so the ids are those of the whole text; failing that, anywhere.
    """
    start = 0
    while len(text) - start > limit:
        ends = [match.end() for match in _BREAK.finditer(text, start, start + limit)]
        end = ends[-1] if ends else start + limit
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
