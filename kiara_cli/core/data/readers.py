"""Inputs to documents, one at a time, whatever the size of the input.

In: a slice of an input: all of it, or of a huge .jsonl or .parquet one of several parts cut between documents.
Out: documents in the order in which they stand there.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, BinaryIO

import numpy as np

from kiara_cli.core.data.documents import CHUNK, Document, conversation, decode_chunks, decode_text, sniff
from kiara_cli.core.data.inputs import Input, find_inputs
from kiara_cli.core.data.places import missing, open_bytes, unreadable
from kiara_cli.core.data.tales import corpus as tales
from kiara_cli.core.tokenizer.bpe import last_break
from kiara_cli.core.tokenizer.chat_format import check_messages
from kiara_cli.errors import KiaraError

PART = 1 << 18  # characters; longer texts are read in parts
ROWS = 256  # of a parquet file at a time
CORRECT = "correct or delete the line, or leave such lines out with --skip-bad"


@dataclass(frozen=True)
class Slice:
    """Part `index` of `of` equal parts of an input."""

    input: Input
    index: int = 0
    of: int = 1

    @property
    def range(self) -> tuple[int, int]:
        """The bytes it nominally covers, from and to."""
        return self.input.size * self.index // self.of, self.input.size * (self.index + 1) // self.of


@dataclass
class Reading:
    """How to read, and how many bad things were left out while reading."""

    text_field: str = "text"
    skip_bad: bool = False
    skipped: int = 0
    surveyed: dict[Input, tuple[str, str, bool]] = field(default_factory=dict)  # long texts

    def bad(self, error: KiaraError) -> None:
        """Leave something out where that is allowed, else raise."""
        if not self.skip_bad:
            raise error
        self.skipped += 1


def read(slices: Iterable[Slice], reading: Reading) -> Iterator[Document]:
    """Yield the documents that hold anything. Raises KiaraError for what cannot be read or is no text."""
    for part in slices:
        try:
            for document in READERS[part.input.kind](part, reading):
                if document.continues or document.whole or document.text.strip() or document.ids is not None:
                    yield document
        except KiaraError as error:
            reading.bad(error)


def read_documents(source: str, reading: Reading | None = None) -> list[Document]:
    """Read all documents of a source into memory. Raises KiaraError if there are none."""
    documents = list(read(map(Slice, find_inputs(source)), reading or Reading()))
    if not documents:
        raise KiaraError(f"{source} is empty", "give a file with some text in it, 1 KB or more")
    return documents


def digest(part: Slice, reading: Reading) -> str:
    """Hash the bytes of a slice as they lie there. Raises KiaraError."""
    try:
        return _digest(part)
    except KiaraError:
        if not reading.skip_bad:
            raise
        return "unreadable"


def _digest(part: Slice) -> str:
    if part.input.kind == "tales":
        return hashlib.sha256(f"{part.input.address} {tales.VERSION}".encode()).hexdigest()
    seen, (start, end) = hashlib.sha256(), part.range
    with _reported(part.input), open_bytes(part.input.address) as file:
        file.seek(start)
        while start < end and (raw := file.read(min(CHUNK, end - start))):
            seen.update(raw)
            start += len(raw)
    return seen.hexdigest()


def _read_text(part: Slice, reading: Reading) -> Iterator[Document]:
    """Yield a text as one document, in parts where it is long."""
    with _opened(part.input) as file:
        raw = file.read(PART + 1)
    if len(raw) <= PART:
        yield Document(part.input.address, decode_text(raw, part.input.address))
        return
    if part.input not in reading.surveyed:
        reading.surveyed[part.input] = _survey_text(part.input)
    encoding, content, blank = reading.surveyed[part.input]
    if blank:
        return
    with _opened(part.input) as file:
        for index, text in enumerate(_parts(decode_chunks(_chunks(file), encoding))):
            yield Document(part.input.address, text, continues=index > 0, whole=content)


def _survey_text(input: Input) -> tuple[str, str, bool]:
    """Return a long text's encoding, its content hash and whether it is blank, in two passes over it."""
    with _opened(input) as file:
        encoding = sniff(_chunks(file), input.address)
    seen, blank = hashlib.sha256(), True
    with _opened(input) as file:
        for text in decode_chunks(_chunks(file), encoding):
            seen.update(text.encode())
            blank = blank and not text.strip()
    return encoding, seen.hexdigest(), blank


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


def _read_jsonl(part: Slice, reading: Reading) -> Iterator[Document]:
    """Yield a document for each line: a conversation where it has messages, else the text of the field."""
    for number, line in _lines(part):
        if not line.strip():
            continue
        origin = f"{part.input.address}, line {number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            reading.bad(KiaraError(f"{origin} is not JSON ({error})", CORRECT))
            continue
        try:
            yield _from_fields(value if isinstance(value, dict) else {}, origin, reading.text_field)
        except KiaraError as error:
            reading.bad(error)


def _lines(part: Slice) -> Iterator[tuple[int, str]]:
    """Yield the lines that begin in a slice, numbered from the beginning of the input."""
    with _opened(part.input) as file:
        start, end = part.range
        head = file.readline() if start == 0 else file.read(2)
        if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            if start == 0:  # it cannot be cut between bytes: the first slice takes all of it
                yield from enumerate(_split_lines(decode_chunks(chain([head], _chunks(file)), "utf-16")), 1)
            return
        at, number = len(head), 1
        if start:
            file.seek(0)
            number += _newlines(file, start - 1) + 1
            file.seek(start - 1)
            at = start - 1 + len(file.readline())  # the end of a line that began before
            head = file.readline() if at < end else b""
            at += len(head)
        while head:
            yield number, head.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="replace")
            number += 1
            head = file.readline() if part.of == 1 or at < end else b""
            at += len(head)


def _split_lines(texts: Iterable[str]) -> Iterator[str]:
    held = ""
    for text in texts:
        *lines, held = (held + text).split("\n")
        yield from lines
    yield held


def _newlines(file: BinaryIO, end: int) -> int:
    """Count the newlines before a place."""
    count = 0
    while end > 0 and (raw := file.read(min(CHUNK, end))):
        count, end = count + raw.count(b"\n"), end - len(raw)
    return count


def _read_parquet(part: Slice, reading: Reading) -> Iterator[Document]:
    """Yield a document for each row: a conversation where there is a column of messages, else the text's field."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise missing("pyarrow", part.input.address) from None
    with _opened(part.input) as opened, parquet.ParquetFile(opened) as file:
        names = file.schema_arrow.names
        if reading.text_field not in names and "messages" not in names:
            raise KiaraError(
                f"{part.input.address} has no field '{reading.text_field}' (it has: {', '.join(names)})",
                f"write data.field={names[0] if names else 'NAME'}, or which of them holds the text",
            )
        column = reading.text_field if reading.text_field in names else "messages"
        groups = file.num_row_groups
        mine = range(groups * part.index // part.of, groups * (part.index + 1) // part.of)
        row = sum(file.metadata.row_group(group).num_rows for group in range(mine.start))
        for batch in file.iter_batches(ROWS, row_groups=list(mine), columns=[column]):
            for value in batch.column(0).to_pylist():
                row += 1
                try:
                    if value is not None:
                        yield _from_fields({column: value}, f"{part.input.address}, row {row}", reading.text_field)
                except KiaraError as error:
                    reading.bad(error)


def _from_fields(value: dict[str, Any], origin: str, field: str) -> Document:
    if "messages" in value:
        messages = check_messages(value["messages"], origin)
        return conversation(origin, [{key: _whole(text) for key, text in turn.items()} for turn in messages])
    text = value.get(field)
    if not isinstance(text, str):
        raise KiaraError(
            f"{origin}: neither a list of messages nor a text called '{field}'",
            f"name the field that holds the text: data.field=NAME (there is: {', '.join(value) or 'none'})",
        )
    return Document(origin, _whole(text))


def _whole(text: str) -> str:
    """Replace halves of characters, which JSON can hold and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _read_datatrove(part: Slice, reading: Reading) -> Iterator[Document]:
    """Yield the ids of each document of a token file of datatrove: flat ids, and a list of where documents end."""
    address = part.input.address
    try:
        with open_bytes(f"{address}.index") as index:
            ends = np.frombuffer(index.read(), dtype="<u8").astype(np.int64)
    except (KiaraError, ValueError):
        raise KiaraError(f"{address} has no readable {address}.index beside it", "copy both files") from None
    tokens = int(ends[-1]) if len(ends) else 0
    width = part.input.size // tokens if tokens else 2
    if width not in (2, 4) or width * tokens != part.input.size or np.any(np.diff(ends, prepend=0) < 0):
        raise KiaraError(f"{address} is damaged: it does not hold the {tokens:,} ids of its index", "copy it again")
    with _opened(part.input) as file:
        for number, length in enumerate(np.diff(ends, prepend=0).tolist(), 1):
            raw = file.read(length * width)
            yield Document(
                f"{address}, document {number}", "", whole=hashlib.sha256(raw).hexdigest(),
                ids=np.frombuffer(raw, dtype=f"<u{width}"),
            )  # fmt: skip


def _read_tales(part: Slice, reading: Reading) -> Iterator[Document]:
    _, seed, size = part.input.address.split(":")
    for number, talk in enumerate(tales.conversations(int(seed), int(size))):
        yield conversation(f"tales:{number}", talk["messages"])


READERS: dict[str, Callable[[Slice, Reading], Iterator[Document]]] = {
    "text": _read_text,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "datatrove": _read_datatrove,
    "tales": _read_tales,
}


@contextlib.contextmanager
def _opened(input: Input) -> Iterator[BinaryIO]:
    """Open an input, unpacked. Raises KiaraError, also for damage found while reading."""
    with _reported(input), open_bytes(input.address) as raw:
        if input.packing == ".gz":
            yield gzip.GzipFile(fileobj=raw)  # type: ignore[misc]
        elif input.packing == ".zst":
            yield io.BufferedReader(_Unzst(raw, input.address), CHUNK)
        else:
            yield raw


@contextlib.contextmanager
def _reported(input: Input) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(input.address, error) from None
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("pyarrow", "zstd", "zstandard"):
            raise
        raise KiaraError(f"{input.address} is damaged ({str(error).splitlines()[0]})", "copy it again") from None


class _Unzst(io.RawIOBase):
    """The content of a .zst file. Unlike zstandard's own reader it notices a file that was cut short."""

    def __init__(self, file: BinaryIO, address: str) -> None:
        try:
            import zstandard
        except ImportError:
            raise missing("zstandard", address) from None
        self._file, self._begin = file, zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            raw = self._frame.unused_data if self._frame is not None and self._frame.eof else b""
            raw = raw or self._file.read(CHUNK)
            if not raw:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("it was cut short")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._begin()
            self._ready = self._frame.decompress(raw)
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while raw := file.read(CHUNK):
        yield raw
