"""How many bytes of text each id stands for.

In: a tokenizer; where it is known, how many bytes the text had that some ids were made of. Out: `Lengths`.

An id for text that has no id of its own (an unknown word or character) does not say what the text was. Its length is
the true one, on average: what the text's bytes leave over after all other ids. And because a model that predicts such
an id has not predicted the text, bits per byte add 8 bits for each of those bytes: spelled out, byte by byte. So a
tokenizer that leaves much out gains nothing by it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kiara_cli.core.data.segments import count_conversations
from kiara_cli.core.data.shards import BLOCK, Tokens
from kiara_cli.core.tokenizer.chat_format import END
from kiara_cli.core.tokenizer.protocol import Tokenizer


@dataclass(frozen=True)
class Lengths:
    """Bytes of the ids; V ids."""

    known: Tensor  # (V,) int64; 0 for special ids and for unknown text
    unknown: Tensor  # (V,) bool: ids for text without an id
    average: float = 0.0  # bytes that an id for text without one stands for
    scale: float = 1.0  # bytes of the text per byte that the ids stand for; not 1 where a tokenizer changes text

    def to(self, device: torch.device) -> Lengths:
        return Lengths(self.known.to(device), self.unknown.to(device), self.average, self.scale)


def byte_lengths(tokenizer: Tokenizer, tokens: Tokens | None = None, text_bytes: int | None = None) -> Lengths:
    """Return the lengths of all ids; those of unknown text from `tokens` and the bytes of the text they were made of.

    Where the text is not known, unknown text counts as what it is written back as.
    """
    unknown = torch.zeros(tokenizer.size, dtype=torch.bool)
    unknown[list(tokenizer.unknowns)] = True
    known = torch.tensor([len(tokenizer.token_bytes(token)) for token in range(tokenizer.size)])
    written = float(known[unknown].float().mean()) if tokenizer.unknowns else 0.0
    known[unknown] = 0
    if tokens is None or text_bytes is None:
        return Lengths(known, unknown, written)
    counts = count_ids(tokens, tokenizer.size)
    if counts[tokenizer.specials[END]]:  # conversations were counted with a newline between two messages
        text_bytes -= int(counts[tokenizer.specials[END]]) - count_conversations(tokens, tokenizer.specials)
    said, missing = int(counts @ known.numpy()), int(counts[unknown.numpy()].sum())
    if missing:
        return Lengths(known, unknown, max(0, text_bytes - said) / missing)
    return Lengths(known, unknown, written, text_bytes / said if said else 1.0)


def count_ids(tokens: Tokens, size: int) -> NDArray[np.int64]:
    """Count how often each of `size` ids occurs, (size,), in constant memory."""
    counts = np.zeros(size, dtype=np.int64)
    for start in range(0, len(tokens), BLOCK):
        counts += np.bincount(tokens[start : start + BLOCK], minlength=size)
    return counts
