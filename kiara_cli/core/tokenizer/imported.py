"""A tokenizer that came in with somebody else's model: its tokenizer.json, run by Hugging Face's `tokenizers`.

In: what `export/reading_tokenizer.py` found in a folder. Out: the ids that transformers makes of a text, what stands
before it, what ends it, and the model's own chat template.

Special tokens are read where the template or the tokenizer itself writes them, never in text that a person gave.
Tokens that were added without being special are ordinary text.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.tokenizer import jinja
from kiara_cli.core.tokenizer.bpe import split
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.protocol import SPECIALS
from kiara_cli.core.tokenizer.visible import hidden
from kiara_cli.errors import KiaraError

_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # how a vocabulary of SentencePiece writes a single byte


class ImportedTokenizer:
    """State, all of it JSON:

    * `tokenizer`: the text of tokenizer.json, as transformers completes it
    * `specials`: ids of Kiara's special tokens; those that the vocabulary lacks come after all rows of the model
    * `rows`: ids that the model scored when it came in
    * `prefix`: ids before every text; `start`: what an empty text begins with; `ends`: ids that end a text
    * `names`: special tokens by what they are for (`bos_token`, …), which a template may write
    * `template`: the chat template, or None
    * `files`, `config`: the other files of the tokenizer as they came, and the special ids of config.json
    * `family`: the model's type, by which transformers chooses the class of its tokenizer
    """

    kind = "imported"

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state
        self._specials: dict[str, int] = dict(state["specials"])
        self.rows: int = state["rows"]
        self.prefix: tuple[int, ...] = tuple(state["prefix"])
        self.start: int = state["start"]
        self.ends: frozenset[int] = frozenset(state["ends"])
        self.template: str | None = state["template"]
        self.names: dict[str, str] = dict(state["names"])
        self.json: str = state["tokenizer"]
        self.files: dict[str, str] = dict(state["files"])
        self.config: dict[str, Any] = dict(state["config"])
        self.family: str = state["family"]
        if self._specials.keys() != set(SPECIALS):
            raise ValueError("each special token has an id")
        self._text = self._open(encode_special_tokens=True)
        added = self._text.get_added_tokens_decoder()
        self.special_texts = {token.content: id_ for id_, token in added.items() if token.special}
        self._added = [token.content for token in added.values() if not token.special]
        decoder = json.loads(self._text.decoder.__getstate__()) if self._text.decoder else {}
        vocabulary = self._text.get_vocab(with_added_tokens=True)
        self._bytes, self.lead, self.fallback = _bytes_of_tokens(decoder, vocabulary)
        self.used = max(self._bytes, default=-1) + 1  # ids that the vocabulary has
        for id_ in (*self.special_texts.values(), *self._specials.values()):
            self._bytes[id_] = b""
        self.size = max(self._bytes) + 1

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> ImportedTokenizer:
        """Rebuild from what `state` returned. Raises ValueError if it is not that; KiaraError without the package."""
        return cls(state)

    @property
    def specials(self) -> dict[str, int]:
        return dict(self._specials)

    @property
    def unknowns(self) -> frozenset[int]:
        found = self.special_texts.get(self.names.get("unk_token", ""))
        return frozenset() if found is None or found in self._specials.values() else frozenset({found})

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, piece in enumerate(split(_valid(text))):
            ids += self._continue(piece) if number else self._ids(piece)
        return ids

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        return np.array(self.encode(text), dtype=np.uint32)

    def encode_byte(self, byte: int) -> int:
        single = bytes([byte])
        found = next((id_ for id_, data in self._bytes.items() if data == single), None)
        return self._text.encode("\ufffd", add_special_tokens=False).ids[-1] if found is None else found

    def token_bytes(self, token: int) -> bytes:
        return self._bytes.get(token, b"")

    def name_of(self, token: int) -> str:
        """Return how the vocabulary writes an id."""
        found = self._text.id_to_token(token)
        return found or next((name for name, id_ in self._specials.items() if id_ == token), "")

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind, **{key: value for key, value in self._state.items() if key != "kind"}}

    def encode_chat(self, messages: Sequence[Message], continued: bool = False) -> list[int]:
        """Return the ids of a conversation that the assistant is to reply to, or to go on with its last message.

        Raises KiaraError where the model's template refuses the conversation.
        """
        assert self.template is not None
        forged = re.compile("|".join(map(re.escape, sorted(self.special_texts, key=len, reverse=True))) or r"(?!)")
        contents = [_valid(message["content"]) for message in messages]
        masked, kept = jinja.mask(contents, forged)
        told: list[Message] = [
            {"role": message["role"], "content": text} for message, text in zip(messages, masked, strict=True)
        ]
        text = jinja.render(self.template, told, self.names, continued)
        if not kept:
            whole: list[int] = self._with_specials.encode(text, add_special_tokens=False).ids
            return whole
        ids: list[int] = []
        for part in re.split(f"({forged.pattern})", text):  # the special tokens that are left are the template's own
            if part in self.special_texts:
                ids.append(self.special_texts[part])
            elif part:
                ids += self._ids(jinja.unmask(part, kept))
        return ids

    @functools.cached_property
    def turn_end(self) -> frozenset[int]:
        """The id of the special token that the template puts behind what the assistant says, if it does."""
        if self.template is None:
            return frozenset()
        after = jinja.behind_reply(self.template, self.names).lstrip()
        found = [id_ for text, id_ in self.special_texts.items() if text and after.startswith(text)]
        return frozenset(found[:1])

    def without_marks(self, text: str) -> str:
        """Break up by a blank what marks a turn, or a part of one, without being a special token: [INST], <think>."""
        return self._marks.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    @functools.cached_property
    def _marks(self) -> re.Pattern[str]:
        """Finds the marks that the template writes around messages, and those that the vocabulary has beside them."""
        found = jinja.marks("".join(self._added))
        if self.template is not None:
            found |= jinja.marks("".join(jinja.around_messages(self.template, self.names)))
        longest = sorted(found - self.special_texts.keys(), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest)) or r"(?!)", re.IGNORECASE)

    @functools.cached_property
    def _with_specials(self) -> Any:
        """The same tokenizer, for a text whose special tokens are meant."""
        return self._open(encode_special_tokens=False)

    def _open(self, encode_special_tokens: bool) -> Any:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise KiaraError(
                "this model's tokenizer needs the package tokenizers, which is not installed",
                "pip install 'kiara-slm[export]'",
            ) from None
        try:
            opened = Tokenizer.from_str(self._state["tokenizer"])
        except Exception as error:  # noqa: BLE001 - the only type that tokenizers raises
            raise ValueError(f"no tokenizer.json: {error}") from None
        opened.no_truncation()
        opened.no_padding()
        opened.encode_special_tokens = encode_special_tokens
        return opened

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._text.encode(text, add_special_tokens=False).ids
        return ids

    def _continue(self, piece: str) -> list[int]:
        """Encode what follows a newline, without what some tokenizers put before the first word of a text."""
        before, ids = self._ids("\n"), self._ids("\n" + piece)
        return ids[len(before) :] if ids[: len(before)] == before else self._ids(piece)


def _bytes_of_tokens(
    decoder: dict[str, Any], vocabulary: dict[str, int]
) -> tuple[dict[int, bytes], bytes, frozenset[int]]:
    """Return the bytes of each id, what decoding drops at the beginning of a text, and the ids of single bytes.

    Raises ValueError for a way of decoding that does not go token by token.
    """
    steps = decoder["decoders"] if decoder.get("type") == "Sequence" else [decoder]
    kinds = [step.get("type") for step in steps]
    if "ByteLevel" in kinds:
        return {id_: _visible_bytes(text) for text, id_ in vocabulary.items()}, b"", frozenset()
    known = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
    if strange := [kind for kind in kinds if kind not in known]:
        raise ValueError(f"no way to decode with {strange[0]} token by token")
    swaps, lead = [], b""
    for step in steps:
        if step["type"] == "Replace":
            swaps.append((step["pattern"]["String"], step["content"]))
        if step["type"] == "Metaspace":
            swaps.append((step["replacement"], " "))
            lead = b"" if step.get("prepend_scheme") == "never" else b" "
        if step["type"] == "Strip" and step.get("start"):
            lead = step["content"].encode() * step["start"]
    made, singles = {}, set()
    for text, id_ in vocabulary.items():
        single = _FALLBACK.fullmatch(text) if "ByteFallback" in kinds else None
        for old, new in swaps:
            text = text.replace(old, new)
        made[id_] = bytes([int(single[1], 16)]) if single else text.encode()
        singles |= {id_} if single else set()
    return made, lead, frozenset(singles)


def _visible_bytes(text: str) -> bytes:
    """Return the bytes of a token that is written in visible characters, or of one that was added as it is."""
    data = hidden(text)
    return text.encode() if data is None else data


def _valid(text: str) -> str:
    """Replace halves of surrogate pairs, which no UTF-8 has."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
