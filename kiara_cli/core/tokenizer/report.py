"""What a vocabulary is like.

In: a tokenizer, and how often each of its ids was used. Out: what is worth telling a person.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.tokenizer.protocol import Tokenizer


def count_unused(tokenizer: Tokenizer, counts: NDArray[np.int64]) -> int:
    """Return how many ids that stand for text were never used; `counts` (V,) says how often each was."""
    return sum(1 for token in np.flatnonzero(counts == 0).tolist() if tokenizer.token_bytes(token))


def longest_tokens(tokenizer: Tokenizer, number: int = 8) -> list[str]:
    """Return the texts of the longest tokens, longest first."""
    texts = [tokenizer.token_bytes(token) for token in range(tokenizer.size)]
    return [text.decode("utf-8", errors="replace") for text in sorted(texts, key=len, reverse=True)[:number] if text]
