"""tokenizer.json and its neighbours, as Hugging Face's programs read and write them.

In: a Kiara tokenizer. Out: tokenizer.json, tokenizer_config.json with the chat template, and on request vocab.json
and merges.txt; and back. All of it is plain JSON made here; nothing in a file that is read is ever executed.

A rank-based BPE joins any two neighbours that spell a token, the lowest id first. A list of merges names pairs, so
every pair that spells a token is listed, in the order of the tokens' ids: then both make the same ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from kiara_cli.core.export.patterns import GPT2, pattern_of, spelling
from kiara_cli.core.export.target import new_folder
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.char import UNKNOWN, CharTokenizer
from kiara_cli.core.tokenizer.chat_format import END, ROLES
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, SPECIALS, Tokenizer
from kiara_cli.errors import KiaraError

CHAT_TEMPLATE = (  # renders what `chat_format.encode_prompt` encodes
    f"{{{{ '{END_OF_TEXT}' }}}}{{% for message in messages %}}"
    f"{{% if message['role'] not in {list(ROLES)} %}}{{{{ raise_exception('no such role') }}}}{{% endif %}}"
    f"{{{{ '<|' + message['role'] + '|>' + message['content'] + '{END}' }}}}{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{{{{ '{ROLES['assistant']}' }}}}{{% endif %}}"
)


@runtime_checkable
class Ranked(Protocol):
    """A byte-level BPE: an id is the rank at which its bytes are merged; b"" for an id without a text."""

    tokens: list[bytes]
    pattern: str


@contextmanager
def writing(tokenizer: Tokenizer, path: Path, context: int) -> Iterator[Path]:
    """Write a folder with all the files there are, and give it its name at the end."""
    with new_folder(path) as folder:
        write_files(tokenizer, folder, context)
        write_vocabulary(tokenizer, folder)
        yield folder


def write_files(tokenizer: Tokenizer, folder: Path, context: int, rows: int | None = None) -> None:
    """Write tokenizer.json and tokenizer_config.json. `rows`: ids that the model scores; None: all."""
    marks = marks_within(tokenizer, rows)
    about: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
    }
    if END_OF_TEXT in marks:
        about |= {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
    if isinstance(tokenizer, CharTokenizer):
        about["unk_token"] = UNKNOWN
    if has_chat(tokenizer, rows):
        about["chat_template"] = CHAT_TEMPLATE
    _write_json(folder / "tokenizer.json", to_json(tokenizer, marks))
    _write_json(folder / "tokenizer_config.json", about)


def write_vocabulary(tokenizer: Tokenizer, folder: Path) -> None:
    """Write vocab.json and merges.txt, the older pair of files. Only a byte-level BPE has them."""
    if not isinstance(tokenizer, Ranked):
        return
    _write_json(folder / "vocab.json", _vocabulary(tokenizer, tokenizer.specials))
    lines = "".join(f"{left} {right}\n" for left, right in merges(tokenizer))
    (folder / "merges.txt").write_text("#version: 0.2\n" + lines, encoding="utf-8")


def marks_within(tokenizer: Tokenizer, rows: int | None) -> dict[str, int]:
    """Return the special tokens that a model of so many rows can read."""
    return {name: token for name, token in tokenizer.specials.items() if rows is None or token < rows}


def has_chat(tokenizer: Tokenizer, rows: int | None) -> bool:
    """Whether every mark of a conversation has an id."""
    return len(marks_within(tokenizer, rows)) == len(SPECIALS)


def check(tokenizer: Tokenizer) -> None:
    """Raise KiaraError for a kind or a split pattern that tokenizer.json cannot express."""
    if isinstance(tokenizer, Ranked):
        spelling(tokenizer.pattern)
    elif not isinstance(tokenizer, CharTokenizer):
        raise KiaraError(
            f"tokenizer.json cannot express tokenizer.kind={tokenizer.kind}", "train with tokenizer.kind=bpe"
        )


def to_json(tokenizer: Tokenizer, marks: Mapping[str, int]) -> dict[str, Any]:
    """Return the content of tokenizer.json. Raises KiaraError as `check` does."""
    check(tokenizer)
    if isinstance(tokenizer, Ranked):
        parts = _bpe_parts(tokenizer, marks, bool(getattr(tokenizer, "compose", False)))
    else:
        assert isinstance(tokenizer, CharTokenizer)
        parts = _char_parts(tokenizer)
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": token, "content": name, **plain, "special": True}
        for name, token in sorted(marks.items(), key=lambda pair: pair[1])
    ]
    head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    return head | parts | {"post_processor": None}


def merges(tokenizer: Ranked) -> Iterator[tuple[str, str]]:
    """Yield every pair of tokens that spells a third, the lowest id first, in visible characters."""
    known = set(tokenizer.tokens) - {b""}
    for token in tokenizer.tokens:
        for cut in range(1, len(token)):
            if token[:cut] in known and token[cut:] in known:
                yield visible(token[:cut]), visible(token[cut:])


def visible(token: bytes) -> str:
    """Write bytes as printable characters, one each, as GPT-2's vocabulary does."""
    return token.decode("latin-1").translate(_SHOWN)


def from_json(value: Mapping[str, Any], end_of_text: int | None, origin: str) -> BPETokenizer:
    """Rebuild a tokenizer from a tokenizer.json. `end_of_text`: the id that the model's config ends texts with.

    Marks of a chat that the file does not name get ids after all others. Raises KiaraError for anything but a
    byte-level BPE with a known split pattern.
    """
    try:
        model, added = value["model"], {item["content"]: item["id"] for item in value.get("added_tokens") or ()}
        compose = _check_parts(value, model, origin)
        pattern = _pattern(value.get("pre_tokenizer"), origin)
        ids: dict[str, int] = model["vocab"]
        size = max([*ids.values(), *added.values()]) + 1
        if not all(0 <= token < 2_000_000 for token in (*ids.values(), *added.values())):
            raise KiaraError(f"{origin}: its ids are out of range", "give a whole tokenizer.json")
        tokens = [b""] * size
        marks = set(added.values())
        for text, token in ids.items():
            if token not in marks:
                tokens[token] = _hidden(text, origin)
        _check_merges(model["merges"], ids, origin)
        specials = _specials(added, end_of_text, size)
        ends_at = 1 + max(index for index, token in enumerate(tokens) if token)
        return BPETokenizer(tokens[:ends_at], pattern, specials=specials, compose=compose)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise KiaraError(
            f"{origin} is no byte-level BPE that Kiara can read ({error})", "only byte-level BPEs can be imported"
        ) from None


def _specials(added: Mapping[str, int], end_of_text: int | None, size: int) -> dict[str, int]:
    """Give each of Kiara's special tokens an id: its own, the model's end of text, or a new one."""
    known = {name: added[name] for name in SPECIALS if name in added}
    if END_OF_TEXT not in known and end_of_text in added.values() and end_of_text is not None:
        known[END_OF_TEXT] = end_of_text
    fresh = iter(range(size, size + len(SPECIALS)))
    return {name: known[name] if name in known else next(fresh) for name in SPECIALS}


def _bpe_parts(tokenizer: Ranked, marks: Mapping[str, int], compose: bool) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": spelling(tokenizer.pattern).regex}, "behavior": "Isolated"}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "normalizer": {"type": "NFC"} if compose else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split | {"invert": False}, to_bytes]},
        "decoder": to_bytes,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # a word that is a token is that token, as in tiktoken
            "vocab": _vocabulary(tokenizer, marks),  # a mark that is not in it would get the first free id instead
            "merges": [list(pair) for pair in merges(tokenizer)],
        },
    }


def _char_parts(tokenizer: CharTokenizer) -> dict[str, Any]:
    vocabulary = {character: token for token, character in enumerate(tokenizer.characters)}
    return {
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r"[\s\S]"},
            "behavior": "Isolated",
            "invert": False,
        },
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": vocabulary | {UNKNOWN: tokenizer.unknown},
            "unk_token": UNKNOWN,
        },
    }


def _vocabulary(tokenizer: Ranked, marks: Mapping[str, int]) -> dict[str, int]:
    texts = {visible(token): rank for rank, token in enumerate(tokenizer.tokens) if token}
    return texts | dict(sorted(marks.items(), key=lambda pair: pair[1]))


def _check_parts(value: Mapping[str, Any], model: Mapping[str, Any], origin: str) -> bool:
    """Raise KiaraError for a part that Kiara has no equal of; return whether text is composed (NFC) first."""
    normalizer = value.get("normalizer")
    kind = normalizer.get("type") if normalizer else None
    wrong = [
        f"the model {model.get('type')}" if model.get("type", "BPE") != "BPE" else "",
        "byte_fallback" if model.get("byte_fallback") else "",
        "dropout" if model.get("dropout") else "",
        "a subword prefix" if model.get("continuing_subword_prefix") else "",
        "a word suffix" if model.get("end_of_word_suffix") else "",
        f"the normalizer {kind}" if kind not in (None, "NFC") else "",
    ]
    if found := ", ".join(filter(None, wrong)):
        raise KiaraError(f"{origin}: Kiara's tokenizers have no {found}", "only byte-level BPEs can be imported")
    return kind == "NFC"


def _pattern(part: Any, origin: str) -> str:
    """Recognise a pre-tokenizer: a split by a known pattern before ByteLevel, or ByteLevel's own."""
    steps = part["pretokenizers"] if part and part.get("type") == "Sequence" else [part]
    kinds = [step.get("type") if step else None for step in steps]
    if kinds and kinds[-1] == "ByteLevel" and not steps[-1].get("add_prefix_space"):
        if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
            return GPT2
        if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
            split = steps[0]
            pattern = pattern_of(split["pattern"].get("Regex", ""))
            if pattern and split.get("behavior") in ("Isolated", "Removed") and _covers(split):
                return pattern
    raise KiaraError(
        f"{origin}: its pre-tokenizer ({', '.join(map(str, kinds))}) is none that Kiara knows",
        "known are those of GPT-2, Llama 3, Qwen and Kiara",
    )


def _covers(split: Mapping[str, Any]) -> bool:
    """Whether a split keeps what its pattern matches (all of these patterns match every character)."""
    inverted: bool = split.get("invert", False)
    return inverted is (split["behavior"] == "Removed")


def _check_merges(pairs: list[Any], ids: Mapping[str, int], origin: str) -> None:
    """Raise KiaraError unless merges come in the order of the ids they make, as ranks do."""
    last = -1
    for pair in pairs:
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        made = ids[left + right]
        if made < last or left not in ids or right not in ids:
            raise KiaraError(
                f"{origin}: its merges are not in the order of its ids",
                "Kiara merges by id and would read it otherwise",
            )
        last = made


def _hidden(text: str, origin: str) -> bytes:
    """Undo `visible`."""
    try:
        return bytes(_BYTES[character] for character in text)
    except KeyError:
        raise KiaraError(
            f"{origin}: the token {text!r} is not written in byte-level characters",
            "only byte-level BPEs can be imported",
        ) from None


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# GPT-2's vocabulary shows printable bytes as themselves and moves the others up to 256 and beyond.
_MOVED = [*range(0x21), *range(0x7F, 0xA1), 0xAD]
_SHOWN = {byte: 256 + index for index, byte in enumerate(_MOVED)}
_BYTES = {chr(_SHOWN.get(byte, byte)): byte for byte in range(256)}
