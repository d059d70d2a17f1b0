"""Files to documents.

In: a path, a folder or a glob. Out: documents, each a piece of text with the place it came from. Reading never
fails on a stray byte; what is not text at all is refused.
"""

from __future__ import annotations

import codecs
import glob
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kiara_cli.core.tokenizer.chat_format import Message, check_messages
from kiara_cli.errors import KiaraError

SUFFIXES = (".txt", ".md", ".jsonl")
BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class Document:
    """One text and where it came from; documents are the unit that a validation split keeps whole."""

    origin: str
    text: str  # of a conversation: all that is said
    messages: tuple[Message, ...] = ()


def conversation(origin: str, messages: Sequence[Message]) -> Document:
    """Make a document of a conversation."""
    return Document(origin, "\n".join(message["content"] for message in messages), tuple(messages))


def find_files(source: str) -> list[Path]:
    """List the files of a path, folder or glob in a fixed order. Raises KiaraError with what is there instead."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        if not files:
            raise KiaraError(f"the folder {source} holds no {' or '.join(SUFFIXES)} file", "give a folder with texts")
        return files
    files = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
    if not files:
        raise KiaraError(f"no data at {source}", _what_is_there(path))
    return files


def read_documents(source: str) -> list[Document]:
    """Read each file of a source as one document. Raises KiaraError for an empty or binary file."""
    documents = [document for path in find_files(source) for document in _read_file(path)]
    documents = [document for document in documents if document.text.strip()]
    if not documents:
        raise KiaraError(f"{source} is empty", "give a file with some text in it, 1 KB or more")
    return documents


def _read_file(path: Path) -> list[Document]:
    """Read a text as one document, a .jsonl file as one conversation a line. Raises KiaraError naming the line."""
    if path.suffix != ".jsonl":
        return [Document(str(path), read_text(path))]
    documents = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        origin = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise KiaraError(f"{origin} is not JSON ({error})", "correct or delete the line") from None
        messages = value.get("messages") if isinstance(value, dict) else None
        documents.append(conversation(origin, check_messages(messages, origin)))
    return documents


def read_text(path: Path) -> str:
    """Read a text file whatever its encoding: see `decode_text`. Raises KiaraError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise KiaraError(f"cannot read {path}: {reason}", "check the path and its permissions") from None
    return decode_text(raw, str(path))


def decode_text(raw: bytes, origin: str) -> str:
    """Decode bytes: a byte-order mark decides; then UTF-8; then whichever of two repairs loses less.

    A few stray bytes in UTF-8 become U+FFFD; a text with more broken sequences than whole ones is read as
    Windows-1252. Newlines are kept as they are, but \\r\\n becomes \\n. Raises KiaraError for binary data.
    """
    encoding = next((name for bom, name in BOMS.items() if raw.startswith(bom)), None)
    if encoding is None and b"\0" in raw:
        raise KiaraError(f"{origin} is a binary file, not text (it holds NUL bytes)", "give a text file")
    try:
        text = raw.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        text = raw.decode(encoding or "utf-8", errors="replace")
        whole = sum(character > "\x7f" for character in text) - (broken := text.count("\ufffd"))
        if encoding is None and broken > whole:
            text = raw.decode("cp1252", errors="replace")
    controls = sum(text[:10_000].count(chr(code)) for code in (*range(9), *range(14, 27), *range(28, 32)))
    if controls > 0.05 * len(text[:10_000]):
        raise KiaraError(f"{origin} is a binary file, not text (it is full of control codes)", "give a text file")
    return text.replace("\r\n", "\n")


def _what_is_there(path: Path) -> str:
    """Name the nearest folder that exists and the texts in it."""
    folder = next(parent for parent in (path.parent, *path.parent.parents, Path()) if parent.is_dir())
    found = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir() if not p.name.startswith("."))
    texts = [name for name in found if name.endswith((*SUFFIXES, "/"))]
    if not texts:
        return f"{folder.resolve()} holds no text files: give the path of one"
    more = f" and {len(texts) - 10} more" if len(texts) > 10 else ""
    return f"in {folder.resolve()} there is: {', '.join(texts[:10])}{more}"
