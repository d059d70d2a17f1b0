"""tokenizer.json and its neighbours, as Hugging Face's programs read and write them.

In: a tokenizer. Out: tokenizer.json, tokenizer_config.json with the chat template, and on request vocab.json and
merges.txt; of a tokenizer that came in with a model, the files that came.

A rank-based BPE joins any two neighbours that spell a token, the lowest id first. A list of merges names pairs, so
every pair that spells a token is listed, in the order of the tokens' ids: then both make the same ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from kiara_cli.core.export.chat_template import chat_template
from kiara_cli.core.export.patterns import spelling
from kiara_cli.core.export.target import new_folder
from kiara_cli.core.tokenizer.char import UNKNOWN, CharTokenizer
from kiara_cli.core.tokenizer.imported import ImportedTokenizer
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, SPECIALS, Tokenizer
from kiara_cli.core.tokenizer.visible import visible
from kiara_cli.errors import KiaraError


@runtime_checkable
class Ranked(Protocol):
    """A byte-level BPE: an id is the rank at which its bytes are merged; b"" for an id without a text."""

    tokens: list[bytes]
    pattern: str


@contextmanager
def writing(tokenizer: Tokenizer, path: Path, context: int, conversations: bool = False) -> Iterator[Path]:
    """Write a folder with all the files there are, and give it its name at the end."""
    with new_folder(path) as folder:
        write_files(tokenizer, folder, context, conversations=conversations)
        write_vocabulary(tokenizer, folder)
        yield folder


def write_files(
    tokenizer: Tokenizer, folder: Path, context: int, rows: int | None = None, conversations: bool = False
) -> None:
    """Write tokenizer.json and tokenizer_config.json. `rows`: ids that the model scores; None: all.

    `conversations`: the model learned from some, so their template is written too. A tokenizer that came in with a
    model goes out as it came, its own template included.
    """
    if isinstance(tokenizer, ImportedTokenizer):
        write_imported(tokenizer, folder, conversations)
        return
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
    if conversations and has_chat(tokenizer, rows):
        about["chat_template"] = chat_template({})
    _write_json(folder / "tokenizer.json", to_json(tokenizer, marks))
    _write_json(folder / "tokenizer_config.json", about)


def write_imported(tokenizer: ImportedTokenizer, folder: Path, conversations: bool) -> None:
    """Write the files that came in; with `conversations`, Kiara's special tokens, and its template for theirs."""
    files = {name: text for name, text in tokenizer.files.items() if name != "generation_config.json"}
    files.setdefault("tokenizer.json", tokenizer.json)
    if conversations:
        files = {name: text for name, text in files.items() if not name.endswith(".jinja")}
        about = json.loads(files.get("tokenizer_config.json", "{}"))
        about = {key: value for key, value in about.items() if key != "added_tokens_decoder"}
        about |= {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": chat_template({END_OF_TEXT: tokenizer.name_of(tokenizer.specials[END_OF_TEXT])}),
        }
        files["tokenizer.json"] = json.dumps(_with_marks(tokenizer), ensure_ascii=False)
        files["tokenizer_config.json"] = json.dumps(about, ensure_ascii=False, indent=1)
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _with_marks(tokenizer: ImportedTokenizer) -> dict[str, Any]:
    """Return tokenizer.json with the special tokens that it lacked."""
    value: dict[str, Any] = json.loads(tokenizer.json)
    known = {token["id"] for token in value["added_tokens"]}
    marks = {name: token for name, token in tokenizer.specials.items() if token not in known}
    if not isinstance(value["model"]["vocab"], dict):
        raise KiaraError(
            "this tokenizer.json has no room for the special tokens of conversations", "export --to safetensors"
        )
    value["added_tokens"] += _added(marks)
    # those that are not in it would get the first free ids instead
    value["model"]["vocab"] |= {token["content"]: token["id"] for token in value["added_tokens"]}
    return value


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
    elif not isinstance(tokenizer, CharTokenizer | ImportedTokenizer):
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
    head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": _added(marks)}
    return head | parts | {"post_processor": None}


def _added(marks: Mapping[str, int]) -> list[dict[str, Any]]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    ordered = sorted(marks.items(), key=lambda pair: pair[1])
    return [{"id": token, "content": name, **plain, "special": True} for name, token in ordered]


def merges(tokenizer: Ranked) -> Iterator[tuple[str, str]]:
    """Yield every pair of tokens that spells a third, the lowest id first, in visible characters."""
    known = set(tokenizer.tokens) - {b""}
    for token in tokenizer.tokens:
        for cut in range(1, len(token)):
            if token[:cut] in known and token[cut:] in known:
                yield visible(token[:cut]), visible(token[cut:])


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


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
