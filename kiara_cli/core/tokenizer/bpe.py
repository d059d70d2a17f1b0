"""Byte-level byte-pair encoding, trained by rustbpe and run by tiktoken.

In: text to learn merges from. Out: a tokenizer that encodes any text without an unknown token.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
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
    """256 bytes, then merges in the order they were learned, then the special tokens.

    An imported vocabulary may differ: an empty token keeps the place of an id that stands for no text, the special
    tokens may have ids of their own, and text may be composed (NFC) before it is encoded.
    """

    kind = "bpe"

    def __init__(
        self,
        tokens: list[bytes],
        pattern: str = PATTERN,
        specials: Mapping[str, int] | None = None,
        compose: bool = False,
    ) -> None:
        self.tokens = tokens
        self.pattern = pattern
        self.compose = compose
        self.default_specials = {name: len(tokens) + index for index, name in enumerate(SPECIALS)}
        self._specials = dict(specials) if specials is not None else self.default_specials
        texts = [token for token in tokens if token]
        ranks = {token: rank for rank, token in enumerate(tokens) if token}
        if len(ranks) != len(texts) or not all(bytes([byte]) in ranks for byte in range(256)):
            raise ValueError("a BPE vocabulary holds each of the 256 bytes, and no token twice")
        ids = list(self._specials.values())
        if set(self._specials) != set(SPECIALS) or len(set(ids)) != len(ids) or any(map(self.token_bytes, ids)):
            raise ValueError("each special token has an id of its own")
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
        tokens = [base64.b64decode(token) for token in state["tokens"]]
        return cls(tokens, state["pattern"], state.get("specials"), state.get("compose", False))

    @property
    def size(self) -> int:
        return max(len(self.tokens), max(self._specials.values()) + 1)

    @property
    def specials(self) -> dict[str, int]:
        return dict(self._specials)

    def encode(self, text: str) -> list[int]:
        text = unicodedata.normalize("NFC", text) if self.compose else text
        ids: list[int] = []
        for piece in split(text):
            ids += self._encoding.encode_ordinary(piece)
        return ids

    def token_bytes(self, token: int) -> bytes:
        return self.tokens[token] if token < len(self.tokens) else b""

    def state(self) -> dict[str, Any]:
        tokens = [base64.b64encode(token).decode() for token in self.tokens]
        state: dict[str, Any] = {"kind": self.kind, "pattern": self.pattern, "tokens": tokens}
        if self._specials != self.default_specials:
            state["specials"] = self.specials
        return state | ({"compose": True} if self.compose else {})


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
