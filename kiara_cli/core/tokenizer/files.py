"""tokenizer.json: the one module that writes and reads it.

In: a tokenizer, or the path of its file. Out: the other one. Plain JSON; nothing is executed on reading.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kiara_cli.config.schema import TokenizerConfig
from kiara_cli.core.tokenizer import pretrained
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.imported import ImportedTokenizer
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.core.tokenizer.word import WordTokenizer
from kiara_cli.errors import KiaraError

FORMAT = "kiara-tokenizer"
KINDS: dict[str, Callable[[dict[str, Any]], Tokenizer]] = {
    "char": CharTokenizer.from_state,
    "word": WordTokenizer.from_state,
    "bpe": BPETokenizer.from_state,
    "imported": ImportedTokenizer.from_state,
    **dict.fromkeys(pretrained.NAMES, BPETokenizer.from_state),
}


def fit(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Make the tokenizer the config asks for, fitted on texts where that kind is fitted."""
    if config.kind == "char":
        return CharTokenizer.ascii() if config.alphabet == "ascii" else CharTokenizer.fit(texts)
    if config.kind == "word":
        return WordTokenizer.fit(texts, config.vocab_size)
    if config.kind in pretrained.NAMES:
        return pretrained.load(config.kind)
    return BPETokenizer.fit(texts, config.vocab_size)


def from_state(state: dict[str, Any], origin: str) -> Tokenizer:
    """Rebuild a tokenizer from its state. Raises KiaraError naming `origin` if it is damaged."""
    try:
        return KINDS[state["kind"]](state)
    except (LookupError, TypeError, ValueError) as error:
        raise KiaraError(
            f"{origin} holds no tokenizer that this Kiara can read ({error!r})", "make it again"
        ) from None


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokenizer as JSON."""
    state = {"format": FORMAT, "version": 1, **tokenizer.state()}
    path.write_text(json.dumps(state, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: Path) -> Tokenizer:
    """Read what `save` wrote. Raises KiaraError."""
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise KiaraError(f"cannot read the tokenizer {path}: {error}", "give a tokenizer.json") from None


def parse(raw: bytes, origin: str) -> Tokenizer:
    """Read the bytes of such a file. Raises KiaraError naming `origin`."""
    try:
        state = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise KiaraError(f"cannot read the tokenizer {origin}: {error}", "give a tokenizer.json") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise KiaraError(f"{origin} is not a Kiara tokenizer", "give a tokenizer.json that kiara wrote")
    return from_state({k: v for k, v in state.items() if k not in {"format", "version"}}, origin)
