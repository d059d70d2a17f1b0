"""The tokenizer of a Hugging Face folder, as transformers understands it.

In: a folder and its config.json. Out: an `ImportedTokenizer`: transformers' own class for the folder says what ids a
text has, what stands before it and which chat template there is, so none of it is worked out a second time here.
Code of the folder is never run.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kiara_cli.core.tokenizer.imported import ImportedTokenizer
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, SPECIALS, decode
from kiara_cli.errors import KiaraError

# what travels unchanged, beside tokenizer.json
FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "additional_chat_templates/*.jinja",
)
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")  # of config.json and generation_config.json
SAMPLE = "The cat, 12 cats:\n\tüber 漢字 \U0001f642  it's <here>"


def read_tokenizer(folder: Path, config: Mapping[str, Any], rows: int) -> ImportedTokenizer:
    """Read the tokenizer of a folder. `rows`: ids that the model scores.

    Raises KiaraError where there is none, where it would need code of the folder, or where it decodes in a way that
    does not go token by token.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise KiaraError(f"{folder} holds no tokenizer.json", "add it, or give --tokenizer FILE_OR_CHECKPOINT")
    opened = _open(folder)
    completed: str = opened.backend_tokenizer.to_str()
    files = _files(folder)
    own = folder / "tokenizer.json"
    text = _text(own) if own.is_file() else completed
    if text is not completed and not _same(text, completed):
        files["tokenizer.json"], text = text, completed  # exported as it came, used as transformers completes it
    generation = _values(files.get("generation_config.json"))
    ends = _several(_first(generation.get("eos_token_id"), config.get("eos_token_id"), opened.eos_token_id))
    start = _first(generation.get("bos_token_id"), config.get("bos_token_id"), opened.bos_token_id, *ends)
    specials = _specials(opened, ends, rows)
    state = {
        "tokenizer": text,
        "specials": specials,
        "rows": rows,
        "prefix": _prefix(opened.backend_tokenizer),
        "start": specials[END_OF_TEXT] if start is None else start,
        "ends": ends or [specials[END_OF_TEXT]],
        "names": {name: value for name, value in opened.special_tokens_map.items() if isinstance(value, str)},
        "template": _template(opened.chat_template),
        "files": files,
        "family": config.get("model_type", ""),
        "config": {name: config[name] for name in IDS if name in config},
    }
    try:
        made = ImportedTokenizer(state)
    except (ValueError, LookupError, TypeError) as error:
        raise KiaraError(
            f"{folder}: Kiara cannot use this tokenizer: {error}", "give another with --tokenizer"
        ) from None
    ids = made.encode(SAMPLE)
    if decode(made, ids) != opened.backend_tokenizer.decode(ids):
        raise KiaraError(f"{folder}: this tokenizer does not decode token by token", "give another with --tokenizer")
    return made


def _open(folder: Path) -> Any:
    """Let transformers read the tokenizer."""
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError:
        raise KiaraError(
            "importing a tokenizer needs the package transformers, which is not installed",
            "pip install 'kiara-slm[export]', or give --tokenizer FILE_OR_CHECKPOINT",
        ) from None
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        opened = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if not opened.is_fast:
            raise ValueError("it has no tokenizer.json")
    except Exception as error:  # noqa: BLE001 - of any type, from files of strangers
        cause = " ".join(str(error).split())[:300]
        raise KiaraError(
            f"{folder}: transformers cannot read its tokenizer ({cause or type(error).__name__})",
            "add a whole tokenizer.json, or give --tokenizer FILE_OR_CHECKPOINT",
        ) from None
    finally:
        transformers.logging.set_verbosity(level)
    backend = opened.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return opened


def _same(text: str, completed: str) -> bool:
    """Say whether a tokenizer.json needs nothing that transformers completes."""
    from tokenizers import Tokenizer

    own = Tokenizer.from_str(text)
    own.no_truncation()
    own.no_padding()
    return own.to_str() == completed


def _prefix(backend: Any) -> list[int]:
    """Return the ids that the tokenizer itself puts before a text."""
    whole, plain = (backend.encode("a", add_special_tokens=special).ids for special in (True, False))
    places = (n for n in range(len(whole)) if whole[n : n + len(plain)] == plain)
    return list(whole[: next(places, 0)])


def _specials(opened: Any, ends: list[int], rows: int) -> dict[str, int]:
    """Give each of Kiara's special tokens an id: its own, the one that ends texts, or one after the model's rows."""
    added = opened.backend_tokenizer.get_added_tokens_decoder()
    own = {token.content: id_ for id_, token in added.items() if token.special}
    known = {name: own[name] for name in SPECIALS if name in own}
    if ends and known.get(END_OF_TEXT) not in ends:
        known[END_OF_TEXT] = ends[0]
    free = max(rows, max(opened.backend_tokenizer.get_vocab(with_added_tokens=True).values(), default=0) + 1)
    fresh = iter(range(free, free + len(SPECIALS)))
    return {name: known[name] if name in known else next(fresh) for name in SPECIALS}


def _template(given: str | dict[str, str] | None) -> str | None:
    """Return the template for an ordinary conversation."""
    return given.get("default") if isinstance(given, dict) else given


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _several(ids: Any) -> list[int]:
    """Read one id, several, or none."""
    listed = ids if isinstance(ids, list) else [ids]
    return [token for token in listed if isinstance(token, int)]


def _files(folder: Path) -> dict[str, str]:
    found = (path for name in FILES for path in sorted(folder.glob(name)) if path.is_file())
    return {path.relative_to(folder).as_posix(): _text(path) for path in found}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise KiaraError(f"cannot read {path}: {error}", "give a whole Hugging Face folder") from None


def _values(text: str | None) -> dict[str, Any]:
    """Read a JSON object; anything else holds no values."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
