"""Encodings that OpenAI published, by name: gpt2, cl100k_base, o200k_base and their kin.

In: a name. Out: a tokenizer with the same ids, which carries its whole vocabulary and so needs tiktoken's files only
once. Its own end of text is Kiara's; the marks of a conversation come after all of its ids.
"""

from __future__ import annotations

import tiktoken

from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT
from kiara_cli.errors import KiaraError

NAMES = ("gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "o200k_base", "o200k_harmony")


def load(name: str) -> BPETokenizer:
    """Open an encoding from tiktoken's cache, which tiktoken fills from the network. Raises KiaraError offline."""
    try:
        encoding = tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        raise KiaraError(
            f"the encoding {name} is not on this machine and cannot be fetched ({type(error).__name__})",
            "go online once, or set TIKTOKEN_CACHE_DIR to a folder that has its file",
        ) from None
    special = {encoding.encode_single_token(text) for text in encoding.special_tokens_set}
    tokens = [b"" if token in special else _bytes_of(encoding, token) for token in range(encoding.n_vocab)]
    return BPETokenizer(tokens, encoding._pat_str, name, {END_OF_TEXT: encoding.eot_token})


def _bytes_of(encoding: tiktoken.Encoding, token: int) -> bytes:
    try:
        return encoding.decode_single_token_bytes(token)
    except KeyError:  # the numbering has gaps
        return b""
