"""JSON that is always valid: which ids may come next, so that a text becomes JSON of a schema.

In: a JSON schema and a tokenizer. Out: a `Grammar`, and from it a `Constraint` for each text that is written.
llguidance (the extra `json`) turns a schema into a parser over bytes, and the bytes of all tokens into a mask over
ids; what it does not know of JSON Schema is refused, by name, and nothing is left out in silence.

Between two items and behind a key at most one blank may stand, so that no model fills its reply with blanks;
properties come in the order of the schema.

V vocabulary.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

ANY_OBJECT: dict[str, Any] = {"type": "object"}
SCHEMA_BYTES = 65_536  # of a schema as JSON: with the limits below, at most about a second to compile (measured)
KEPT = 32  # grammars that are kept compiled
STRICT = {
    "item_separator": ", ?",  # regular expressions
    "key_separator": ": ?",
    "whitespace_flexible": False,
    "lenient": False,  # keywords that are not known are errors, whatever a schema's own x-guidance says
    "coerce_one_of": False,
}
LIMITS = {"max_lexer_states": 50_000, "step_max_items": 20_000, "step_lexer_fuel": 100_000, "verbose_errors": False}
NAMES = ("properties", "patternProperties", "$defs", "definitions")  # keywords whose keys are names, not keywords
EXCLUSIVE = {
    "exclusiveMinimum": ("maximum", "exclusiveMaximum"),
    "exclusiveMaximum": ("minimum", "exclusiveMinimum"),
}
TOO_COMPLEX = "bound its lengths and numbers of items, or ask for less"


class Constraint:
    """How far one text has come, and what may follow. `stop_ids` may follow where the JSON is complete."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, stop_ids: frozenset[int]) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size
        self._stop_ids = sorted(stop_ids)

    @property
    def complete(self) -> bool:
        """Whether the JSON is complete and nothing could be added to it."""
        return self._matcher.is_stopped() and self._matcher.is_accepting()

    def allowed(self) -> Tensor:
        """Return which ids may come next, (V,) bool. Raises KiaraError where none may."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        mask = np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)
        mask[self._stop_ids] = self._matcher.is_accepting()
        if not mask.any():
            raise KiaraError(
                "the model's tokenizer has nothing that could come next in this JSON",
                "ask for names, values and patterns made of what it knows",
            )
        return torch.from_numpy(mask)

    def take(self, token: int) -> None:
        """Go on behind an id. Raises KiaraError for one that may not come next."""
        if token not in self._stop_ids:
            self._matcher.consume_token(token)
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise KiaraError(f"the JSON schema cannot be followed: {_first_line(self._matcher)}", TOO_COMPLEX)


class Grammar:
    """A compiled schema, for any number of texts."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def start(self, stop_ids: frozenset[int], resumed: Sequence[int] = ()) -> Constraint:
        """Begin a text, or go on behind the ids that are there."""
        constraint = Constraint(self._matcher.deep_copy(), self._vocab_size, stop_ids)
        for token in resumed:
            constraint.take(token)
        return constraint


class Grammars:
    """Compiles schemas for one tokenizer and keeps the latest. May be called from any thread.

    `forbidden` (V,) marks ids that are never sampled.
    """

    def __init__(self, tokenizer: Tokenizer, forbidden: Tensor) -> None:
        self._tokenizer, self._forbidden = tokenizer, forbidden.tolist()
        self._words: Words | None = None
        self._kept: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()  # one at a time: schemas of strangers shall not take every core

    def compile(self, schema: Any) -> Grammar:
        """Return the grammar of a JSON schema. Raises KiaraError for one that is not supported, or too large."""
        text = _checked(schema)
        with self._lock:
            if text in self._kept:
                self._kept.move_to_end(text)
            else:
                self._words = self._words or Words(self._tokenizer, self._forbidden)
                grammar = self._words.grammar(text)
                for part in _parts(schema):
                    _check_bounds(part)
                    for literal in _literals(part):
                        self._words.check(literal)
                grammar.start(frozenset()).allowed()
                self._kept[text] = grammar
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[text]


class Words:
    """A vocabulary as llguidance wants it: the bytes of each id, one more id as the end, and how text is cut."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, forbidden: Sequence[bool]) -> None:
        try:
            import llguidance
        except ImportError:
            raise KiaraError(
                "JSON by a schema needs the package llguidance, which is not installed",
                "pip install 'kiara-slm[json]'",
            ) from None
        self._tokenizer, self.eos_token_id = tokenizer, len(forbidden)
        self.special_token_ids = [self.eos_token_id]
        sampled = [id_ < tokenizer.size and not never for id_, never in enumerate(forbidden)]
        self.tokens = [tokenizer.token_bytes(id_) if yes else b"" for id_, yes in enumerate(sampled)] + [b"<end>"]
        self._ids = {data: id_ for id_, data in enumerate(self.tokens[:-1]) if data}
        self._longest = max(map(len, self._ids), default=0)
        self._table: LLTokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(self))
        self._library = llguidance

    def __call__(self, data: bytes) -> list[int]:
        """Cut text that must come, as the tokenizer does; where it cannot write it, the end is all that may come."""
        try:
            ids = self._tokenizer.encode(data.decode())
        except UnicodeDecodeError:  # cut inside a character
            ids = []
        if b"".join(self.tokens[id_] if id_ < self.eos_token_id else b"" for id_ in ids) == data:
            return ids
        return self._cut(data) or [self.eos_token_id]

    def grammar(self, schema: str) -> Grammar:
        """Compile a schema. Raises KiaraError."""
        matcher_type = self._library.LLMatcher
        try:
            written = matcher_type.grammar_from_json_schema(schema, overrides=STRICT)  # type: ignore[arg-type]
        except ValueError as error:
            raise _refusal(str(error)) from None
        limits = self._library.LLParserLimits(**LIMITS)  # type: ignore[arg-type]
        matcher = matcher_type(self._table, written, log_level=0, limits=limits)
        if matcher.is_error():
            raise _refusal(_first_line(matcher))
        matcher.compute_bitmask()  # much of the work is done here, and not between two tokens
        if matcher.is_error() and "NoExtension" in matcher.get_error():
            raise _refusal("no JSON is of this schema")
        return Grammar(matcher, self.eos_token_id)

    def check(self, text: str) -> None:
        """Raise KiaraError for a text that the tokenizer cannot write, neither by itself nor behind a blank."""
        if all(self(written.encode()) == [self.eos_token_id] for written in (text, " " + text)):
            raise KiaraError(
                f"the model's tokenizer cannot write {text[:100]}, which the JSON schema asks for",
                "use names and values made of what it knows",
            )

    def _cut(self, data: bytes) -> list[int]:
        """Cut bytes into the longest tokens that there are; nothing if that cannot be done."""
        ids, at = [], 0
        while at < len(data):
            found = next((n for n in range(self._longest, 0, -1) if data[at : at + n] in self._ids), 0)
            if not found:
                return []
            ids.append(self._ids[data[at : at + found]])
            at += found
        return ids


def read_schema(path: Path) -> Any:
    """Read a JSON schema from a file. Raises KiaraError."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise KiaraError(f"cannot read the JSON schema {path}: {error.strerror}", "give the path of a file") from None
    except (ValueError, RecursionError) as error:
        why = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)[:100]
        raise KiaraError(f"{path} holds no JSON: {why}", "write a JSON schema into it") from None


def _checked(schema: Any) -> str:
    """Return a schema as JSON. Raises KiaraError if it is no object, or too large."""
    if not isinstance(schema, dict):
        raise KiaraError("a JSON schema is an object", 'write one such as {"type": "object", "properties": {…}}')
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except RecursionError:
        raise _refusal("it is nested too deeply") from None
    except ValueError:
        raise _refusal("it holds what no JSON may hold: NaN, Infinity or half a character") from None
    if size > SCHEMA_BYTES:
        raise KiaraError(
            f"the JSON schema is {size:,} bytes long; at most {SCHEMA_BYTES:,} are read", "use a smaller one"
        )
    return text


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and all schemas in it."""
    if isinstance(schema, dict):
        yield schema
    inner = schema.items() if isinstance(schema, dict) else enumerate(schema) if isinstance(schema, list) else ()
    for key, value in inner:
        if key not in ("enum", "const"):
            named = key in NAMES and isinstance(value, dict)
            for part in list(value.values()) if named else [value]:
                yield from _parts(part)


def _literals(part: dict[str, Any]) -> Iterator[str]:
    """Yield what a schema wants written letter by letter: names of properties, and values, as JSON."""
    wanted = [*part["properties"]] if isinstance(part.get("properties"), dict) else []
    wanted += part["enum"] if isinstance(part.get("enum"), list) else []
    wanted += [part["const"]] if "const" in part else []
    yield from (json.dumps(one, ensure_ascii=False) for one in wanted)


def _check_bounds(part: dict[str, Any]) -> None:
    """Refuse the bounds for which llguidance (1.9) accepts the excluded number itself: x > 0 and x < 0.5 took 0."""
    for name, others in EXCLUSIVE.items():
        bound = _number(part.get(name))
        near = any(0 < abs(_number(part.get(other)) - bound) < 1 for other in others)
        if near and bound.is_integer() and part.get("type") != "integer":
            raise KiaraError(
                f"the JSON schema uses {name!r} so near to its other bound that it cannot be kept",
                f"use {name[9:].lower()!r}",
            )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _refusal(why: str) -> KiaraError:
    """Say in one line what of a schema cannot be used."""
    unknown = re.match(r'Unimplemented keys: \["(.+?)"', why)
    if unknown:
        return KiaraError(f"the JSON schema uses {unknown[1]!r}, which is not supported", "say it in another way")
    if "oneOf constraints" in why:
        return KiaraError(
            "the JSON schema uses 'oneOf' with choices that may both hold, which is not supported", "use 'anyOf'"
        )
    if "too large" in why or "too big" in why or "recursion limit" in why:
        return KiaraError(f"the JSON schema is too large: {why}", TOO_COMPLEX)
    return KiaraError(f"the JSON schema cannot be used: {why}", "correct it, or ask for less")


def _first_line(matcher: LLMatcher) -> str:
    lines = [line.strip() for line in matcher.get_error().splitlines() if line.strip()]
    message = lines[-1] if lines and lines[0].startswith("regex parse error") else (lines or ["no reason given"])[0]
    return message[:200]
