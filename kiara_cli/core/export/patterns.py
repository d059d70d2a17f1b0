"""Split patterns: how a byte-level BPE cuts text into words before it merges, as other programs spell it.

In: the pattern of a tokenizer, a regular expression of tiktoken's. Out: the same splits as an expression of Hugging
Face's `tokenizers` (Oniguruma, which reads `{1,3}+` and `$` differently), and the name that llama.cpp has for them.
"""

from __future__ import annotations

from dataclasses import dataclass

from kiara_cli.core.tokenizer.bpe import PATTERN
from kiara_cli.errors import KiaraError

# GPT-2's, as OpenAI published it; tokenizers' ByteLevel with use_regex means this one.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# The two spellings of tiktoken that differ in letters, not in splits.
R50K = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


@dataclass(frozen=True)
class Spelling:
    """One way to split text, for Hugging Face (`regex`) and for llama.cpp (`pre`)."""

    regex: str
    pre: str


SPELLINGS = {
    PATTERN: Spelling(PATTERN, "llama-bpe"),
    LLAMA3: Spelling(LLAMA3, "llama-bpe"),
    QWEN2: Spelling(QWEN2, "qwen2"),
    GPT2: Spelling(GPT2, "gpt-2"),
    R50K: Spelling(GPT2, "gpt-2"),
    CL100K: Spelling(PATTERN, "llama-bpe"),
}


def spelling(pattern: str) -> Spelling:
    """Look a tokenizer's pattern up. Raises KiaraError for one that others have no name for."""
    if pattern not in SPELLINGS:
        raise KiaraError(
            "the tokenizer splits text by a pattern that other programs do not know",
            "train one with tokenizer.kind=bpe",
        )
    return SPELLINGS[pattern]


def pattern_of(regex: str) -> str | None:
    """Return the tokenizer's pattern for a regular expression found in a tokenizer.json; None if unknown."""
    return next((pattern for pattern, known in SPELLINGS.items() if known.regex == regex), None)
