"""Inputs to documents, one at a time, whatever the size of the input.

In: a slice of an input: all of it, or of a huge .jsonl or .parquet one of several parts cut between documents.
Out: documents in the order in which they stand there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kiara_cli.config.folders import as_path
from kiara_cli.core.data.charset import BinaryError, Strays, decode_chunks, detect
from kiara_cli.core.data.documents import Document, conversation
from kiara_cli.core.data.formats import Fields, talk_of
from kiara_cli.core.data.inputs import STDIN, Input, find_inputs
from kiara_cli.core.data.listing import is_pipe
from kiara_cli.core.data.notices import Notices
from kiara_cli.core.data.pipes import Pipes
from kiara_cli.core.data.places import open_bytes
from kiara_cli.core.data.records import holds_json_lines, json_lines, json_values
from kiara_cli.core.data.slices import Reading, Slice, chunks, opened
from kiara_cli.core.data.tables import csv_rows, parquet_rows
from kiara_cli.core.data.worlds.read import read_world
from kiara_cli.core.data.worlds.talks import conversations
from kiara_cli.core.tokenizer.bpe import last_break
from kiara_cli.errors import KiaraError

PART = 1 << 18  # characters; longer texts are read in parts


def read(slices: Iterable[Slice], reading: Reading) -> Iterator[Document]:
    """Yield the documents that hold anything. Raises KiaraError for what cannot be read or is no text."""
    for part in slices:
        try:
            for document in READERS[part.input.kind](part, reading):
                if document.continues or document.whole or document.text.strip() or document.ids is not None:
                    yield document
                else:
                    reading.notices.add("left out, as they are blank", document.origin)
        except BinaryError as error:
            if part.input.named:
                reading.bad(error)
            else:
                reading.notices.add("left out, as they are no texts", part.input.name)
        except KiaraError as error:
            reading.bad(error)


def read_documents(source: str, reading: Reading | None = None, stdin: BinaryIO | None = None) -> list[Document]:
    """Read all documents of a source, or of `stdin` for -, into memory. Raises KiaraError if there are none."""
    reading = reading or Reading()
    path = as_path(source)
    with closing(Pipes(stdin)) as pipes:
        piped = [pipes.take(path, reading.notices)] if is_pipe(path) or (stdin and source == STDIN) else None
        documents = list(read(map(Slice, piped or find_inputs(source, reading.notices)), reading))
    if not documents:
        raise empty(source, reading)
    return documents


def empty(source: str, reading: Reading, listed: Notices | None = None) -> KiaraError:
    """Say that a source holds no document, and what was left out of it."""
    lines = [*(listed.lines() if listed else ()), *reading.notices.lines()]
    left_out = "; ".join(line for line in lines if not line.endswith(f": {source}"))
    if reading.skipped:
        left_out += f"{'; ' if left_out else ''}{reading.skipped:,} could not be read"
    return KiaraError(
        f"{source} is empty" + (f" ({left_out})" if left_out else ""),
        "give a file with some text in it, 1 KB or more",
    )


def _read_text(part: Slice, reading: Reading) -> Iterator[Document]:
    """Yield a text as one document, in parts where it is long."""
    input = part.input
    with opened(input) as file:
        raw = file.read(PART + 1)
    if len(raw) <= PART:
        encoding, strays = detect([raw], input.name, reading.encoding), Strays()
        text = "".join(decode_chunks([raw], encoding, strays))
        strays.note(reading.notices, input.name, encoding, reading.encoding)
        _warn_of_records(input, text, reading)
        yield Document(input.name, text)
        return
    if input not in reading.surveyed:
        reading.surveyed[input] = _survey(input, reading)
    encoding, content, blank, strays = reading.surveyed[input]
    strays.note(reading.notices, input.name, encoding, reading.encoding)
    if blank:
        reading.notices.add("left out, as they are blank", input.name)
        return
    with opened(input) as file:
        for index, text in enumerate(_parts(decode_chunks(chunks(file), encoding))):
            if index == 0:
                _warn_of_records(input, text, reading)
            yield Document(input.name, text, continues=index > 0, whole=content)


def _survey(input: Input, reading: Reading) -> tuple[str, str, bool, Strays]:
    """Return a long text's encoding, its content hash, whether it is blank and what is odd, in two passes over it."""
    with opened(input) as file:
        encoding = detect(chunks(file), input.name, reading.encoding)
    seen, blank, strays = hashlib.sha256(), True, Strays()
    with opened(input) as file:
        for text in decode_chunks(chunks(file), encoding, strays):
            seen.update(text.encode())
            blank = blank and not text.strip()
    return encoding, seen.hexdigest(), blank, strays


def _warn_of_records(input: Input, text: str, reading: Reading) -> None:
    """Note where JSON is learned as prose."""
    if text.lstrip()[:1] == "{" and holds_json_lines(input, reading):
        reading.notices.add("learned as plain text, though they hold JSON lines (name them .jsonl)", input.name)


def _parts(texts: Iterable[str]) -> Iterator[str]:
    """Cut a stream of text into parts of at most PART characters, where that changes no ids."""
    held = ""
    for text in texts:
        held += text
        while len(held) > PART:
            end = last_break(held, 0, PART)
            yield held[:end]
            held = held[end:]
    if held:
        yield held


def _of_records(records: Callable[[Slice, Reading], Iterator[tuple[str, Any]]]) -> Callable[..., Iterator[Document]]:
    """Make a reader of documents of one of records."""

    def reader(part: Slice, reading: Reading) -> Iterator[Document]:
        for origin, value in records(part, reading):
            try:
                document = document_of(value, origin, reading.fields)
            except KiaraError as error:
                reading.bad(error)
                continue
            if document is None:
                reading.notices.add("left out, as all their fields are null", origin)
            else:
                yield document

    return reader


def document_of(value: Any, origin: str, where: Fields) -> Document | None:
    """Make a conversation of a record that is one, else a text of its field; a field that is null is absent.

    Where it is both, data.field is a text and wins over all but messages and the fields that were named for requests
    and replies. None if it has the fields, and all are null. Raises KiaraError for what is neither.
    """
    fields = value if isinstance(value, dict) else {}
    text = fields.get(where.text)
    if isinstance(text, str) and not (fields.get("messages") or (where.prompt in fields and where.reply in fields)):
        check_text(text, origin)
        return Document(origin, text)
    if (talk := talk_of(fields, origin, where)) is not None:
        for turn in talk.messages:
            check_text(turn["content"], origin)
        check_text(talk.rejected or "", origin)
        return conversation(origin, talk.messages, talk.rejected)
    if fields.get("messages") == []:
        raise KiaraError(f"{origin}: no list of messages", "write at least one, or delete it")
    named = where.named(fields)
    if named and all(fields.get(name) is None for name in named):
        return None
    raise KiaraError(
        f"{origin}: neither a conversation nor a text called '{where.text}'",
        "name the field that holds the text: data.field=NAME, or of conversations: data.prompt_field=NAME "
        f"data.reply_field=NAME (there is: {', '.join(fields) or 'none'})",
    )


def check_text(text: str, origin: str) -> None:
    """Raise KiaraError for halves of characters, which JSON can hold and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise KiaraError(f"{origin} holds {half}, half of a character", "correct or delete it") from None


def _read_datatrove(part: Slice, reading: Reading) -> Iterator[Document]:
    """Yield the ids of each document of a token file of datatrove: flat ids, and a list of where documents end."""
    address = part.input.address
    try:
        with open_bytes(f"{address}.index") as index:
            ends = np.frombuffer(index.read(), dtype="<u8").astype(np.int64)
    except (KiaraError, ValueError):
        raise KiaraError(f"{address} has no readable {address}.index beside it", "copy both files") from None
    tokens = int(ends[-1]) if len(ends) else 0
    width = part.input.size // tokens if tokens > 0 else 2
    if width not in (2, 4) or width * tokens != part.input.size or np.any(np.diff(ends, prepend=0) < 0):
        raise KiaraError(f"{address} is damaged: it does not hold the {tokens:,} ids of its index", "copy it again")
    with opened(part.input) as file:
        for number, length in enumerate(np.diff(ends, prepend=0).tolist(), 1):
            raw = file.read(length * width)
            yield Document(
                f"{address}, document {number}", "", whole=hashlib.sha256(raw).hexdigest(),
                ids=np.frombuffer(raw, dtype=f"<u{width}"),
            )  # fmt: skip


def _read_world(part: Slice, reading: Reading) -> Iterator[Document]:
    seed, size, path = part.input.address.split(":", 2)
    for number, messages in enumerate(conversations(read_world(Path(path)), int(seed), int(size))):
        yield conversation(f"{part.input.name}:{number}", messages)


READERS: dict[str, Callable[[Slice, Reading], Iterator[Document]]] = {
    "text": _read_text,
    "jsonl": _of_records(json_lines),
    "json": _of_records(json_values),
    "parquet": _of_records(parquet_rows),
    "table": _of_records(csv_rows),
    "datatrove": _read_datatrove,
    "world": _read_world,
}
