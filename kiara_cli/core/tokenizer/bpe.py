"""Byte-level byte-pair encoding, trained by rustbpe and run by tiktoken.

In: text to learn merges from. Out: a tokenizer that encodes any text without an unknown token.
"""

from __future__ import annotations

import base64
import itertools
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import rustbpe
import tiktoken
from numpy.typing import NDArray

from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, SPECIALS, Native

# The split pattern of rustbpe, GPT-4's with possessive quantifiers: what llama.cpp calls "llama-bpe".
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
# The same without looking ahead, which lets the regex engine run as an automaton (twice as fast, measured),
# for text in which `mark` has put a NUL wherever `\s+(?!\S)` would have ended before a blank. `encode` is the plain
# way and `encode_array` this one; a test shows that they agree.
MARKED = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}\x00]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}\x00]+[\r\n]*"
    r"|\s*[\r\n]|\s+|\x00"
)
PIECE = 200_000  # characters; runs of some 400,000 spaces make both libraries panic
FIT_PIECE, FIT_BUFFER = 50_000, 64  # characters of a piece and pieces that rustbpe takes at once: bounds its memory
BYTES_PER_MERGE = 64  # of text, at least, for each merge learned (a guess): less would memorize, not compress

_RARE_BLANKS = "\t\x0b\x0c\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # \s, less space and newlines
_RARE = re.compile(f"[{_RARE_BLANKS}]")
_LAST_SPACE = re.compile(f"  (?=[^ {_RARE_BLANKS}\r\n])")
_LAST_BLANK = re.compile(f"(?<=[ {_RARE_BLANKS}])(?=[ {_RARE_BLANKS}][^ {_RARE_BLANKS}\r\n])")


class BPETokenizer(Native):
    """256 bytes, then merges in the order they were learned, then the special tokens.

    A vocabulary made elsewhere may differ: an empty token (b"") keeps the place of an id that stands for no text,
    `specials` names special tokens that have an id already (the others come after all ids), and text may be composed
    (NFC) before it is encoded.
    """

    def __init__(
        self,
        tokens: list[bytes],
        pattern: str = PATTERN,
        kind: str = "bpe",
        specials: Mapping[str, int] = MappingProxyType({}),
        compose: bool = False,
    ) -> None:
        self.kind = kind
        self.tokens = tokens
        self.pattern = pattern
        self.compose = compose
        self._specials = _with_ids(specials, len(tokens))
        ranks = {token: rank for rank, token in enumerate(tokens) if token}
        if len(ranks) != len(tokens) - tokens.count(b"") or not all(bytes([byte]) in ranks for byte in range(256)):
            raise ValueError("a BPE vocabulary holds each of the 256 bytes, and no token twice")
        if any(map(self.token_bytes, self._specials.values())):
            raise ValueError("a special token stands for no text")
        self._ranks = ranks
        self._encoding = tiktoken.Encoding(kind, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        self._marked = self._encoding
        if pattern == PATTERN:
            self._marked = tiktoken.Encoding(kind, pat_str=MARKED, mergeable_ranks=ranks, special_tokens={})

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int) -> BPETokenizer:
        """Learn merges until there are `vocab_size` ids in all, special tokens included.

        Yields fewer where the text is too small to earn them: see BYTES_PER_MERGE.
        """
        read = 0

        def pieces() -> Iterator[str]:
            nonlocal read
            for text in texts:
                for piece in split(text, FIT_PIECE):
                    read += len(piece)
                    yield mark(piece.replace("\0", " "))

        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(pieces(), vocab_size - len(SPECIALS), buffer_size=FIT_BUFFER, pattern=MARKED)
        ranked = sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])
        earned = 256 + read // BYTES_PER_MERGE
        # Two pairs can spell the same bytes (ab+c, a+bc); tiktoken knows tokens by their bytes, the first one wins.
        return cls(list(dict.fromkeys(bytes(token) for token, _ in ranked[:earned])))

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> BPETokenizer:
        """Rebuild from what `state` returned. Raises ValueError if it is not that."""
        tokens = [base64.b64decode(token) for token in state["tokens"]]
        specials = state.get("specials", {})
        if "end_of_text" in state:  # an older way to write this one
            specials = {END_OF_TEXT: state["end_of_text"]}
        return cls(tokens, state["pattern"], state["kind"], specials, state.get("compose", False))

    @property
    def size(self) -> int:
        return max(len(self.tokens), max(self._specials.values()) + 1)

    @property
    def specials(self) -> dict[str, int]:
        return dict(self._specials)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in self._pieces(text):
            ids += self._encoding.encode_ordinary(piece)
        return ids

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        parts = [self._encode_piece(piece) for piece in self._pieces(text)]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint32)

    def encode_byte(self, byte: int) -> int:
        return self._ranks[bytes([byte])]

    def token_bytes(self, token: int) -> bytes:
        return self.tokens[token] if token < len(self.tokens) else b""

    def state(self) -> dict[str, Any]:
        tokens = [base64.b64encode(token).decode() for token in self.tokens]
        known: dict[str, Any] = {"kind": self.kind, "pattern": self.pattern, "tokens": tokens}
        if self._specials != _with_ids({}, len(self.tokens)):
            known["specials"] = self.specials
        return known | ({"compose": True} if self.compose else {})

    def _pieces(self, text: str) -> Iterator[str]:
        return split(unicodedata.normalize("NFC", text) if self.compose else text)

    def _encode_piece(self, piece: str) -> NDArray[np.uint32]:
        if self._marked is self._encoding or "\0" in piece:
            return _as_array(self._encoding.encode_ordinary(piece))
        ids = _as_array(self._marked.encode_ordinary(mark(piece)))
        kept: NDArray[np.uint32] = ids[ids != self._ranks[b"\0"]]
        return kept


def mark(text: str) -> str:
    """Put a NUL before the last blank of each run of blanks that something visible follows."""
    plain = text.isascii() and not ("\t" in text or "\x0b" in text or "\x0c" in text)
    return _LAST_SPACE.sub(" \0 ", text) if plain or not _RARE.search(text) else _LAST_BLANK.sub("\0", text)


def _with_ids(known: Mapping[str, int], size: int) -> dict[str, int]:
    """Give special tokens without an id those after all that are taken. Raises ValueError if two share one."""
    after = itertools.count(max([size, *(token + 1 for token in known.values())]))
    ids = {name: known[name] if name in known else next(after) for name in SPECIALS}
    if not known.keys() <= ids.keys() or len(set(ids.values())) < len(ids) or min(ids.values()) < 0:
        raise ValueError("each special token has an id of its own")
    return ids


def _as_array(ids: list[int]) -> NDArray[np.uint32]:
    """Copy ids into an array; three times as fast as np.array, and encode_to_numpy itself takes a slower way."""
    return np.frombuffer(array("I", ids), dtype=np.uint32)


def split(text: str, limit: int = PIECE) -> Iterator[str]:
    """Cut text into pieces of at most `limit` characters.

    Cuts after a newline that a visible character follows, or else between a letter and a space, where no split
    pattern of the GPT family joins the two sides, so the ids are those of the whole text; failing that, anywhere.
    """
    start = 0
    while len(text) - start > limit:
        end = last_break(text, start, start + limit)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def last_break(text: str, start: int, end: int) -> int:
    """Return the last place from `start` + 1 to `end` where text may be cut without changing ids, or `end`."""
    at = end
    while (at := text.rfind("\n", start, at)) >= 0:
        if at + 1 < len(text) and not text[at + 1].isspace() and text[at + 1] != "/":  # o200k joins newlines and /
            return at + 1
    at = end
    while (at := text.rfind(" ", start + 1, at)) >= 0:
        if text[at - 1].isalpha():
            return at
    return end
