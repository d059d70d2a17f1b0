"""Parts of inputs, opened: what every reader stands on.

In: an input. Out: its bytes, unpacked, all of them or those of a slice; and the record of what was left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from kiara_cli.core.data.formats import Fields
from kiara_cli.core.data.inputs import Input
from kiara_cli.core.data.notices import Notices
from kiara_cli.core.data.places import missing, open_bytes, unreadable
from kiara_cli.core.data.worlds import talks as worlds
from kiara_cli.errors import KiaraError

CHUNK = 1 << 20  # bytes read at a time from a long file


class BadInput(KiaraError):
    """A line, row or file that cannot be read and that may be left out instead."""


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
    """How to read, how many bad things were left out while reading, and what there is to say."""

    text_field: str = "text"
    skip_bad: bool = False
    encoding: str | None = None  # None: told by the bytes
    prompt_field: str | None = None  # of a request, and of its reply, where their names are a person's own
    reply_field: str | None = None
    skipped: int = 0
    notices: Notices = field(default_factory=Notices)
    told: set[Input] = field(default_factory=set)  # whose encoding is among the notices
    pages: dict[Input, str] = field(default_factory=dict)  # the encodings of files of lines that are not UTF-8
    surveyed: dict[Input, Any] = field(default_factory=dict)  # what readers found out in a pass over an input

    @property
    def fields(self) -> Fields:
        return Fields(self.text_field, self.prompt_field, self.reply_field)

    def bad(self, error: KiaraError) -> None:
        """Leave something out where that is allowed, else raise."""
        if not self.skip_bad:
            raise BadInput(error.cause, error.remedy) from None
        self.skipped += 1

    def anew(self) -> Reading:
        """Return the same with nothing counted yet."""
        return dataclasses.replace(self, skipped=0, notices=Notices(), told=set())


def digest(part: Slice, reading: Reading) -> str:
    """Hash the bytes of a slice as they lie there. Raises KiaraError."""
    try:
        return _digest(part)
    except KiaraError:
        if not reading.skip_bad:
            raise
        return "unreadable"


def _digest(part: Slice) -> str:
    if part.input.kind == "world":
        seed, size, path = part.input.address.split(":", 2)
        with _reported(part.input), open_bytes(path) as file:
            return hashlib.sha256(f"{seed}:{size} {worlds.VERSION} ".encode() + file.read()).hexdigest()
    seen, (start, end) = hashlib.sha256(), part.range
    with _reported(part.input), open_bytes(part.input.address) as file:
        file.seek(start)
        while start < end and (raw := file.read(min(CHUNK, end - start))):
            seen.update(raw)
            start += len(raw)
    return seen.hexdigest()


@contextlib.contextmanager
def opened(input: Input) -> Iterator[BinaryIO]:
    """Open an input, unpacked. Raises KiaraError, also for damage found while reading.

    zstd is unpacked by pyarrow: the reader of the package zstandard takes a file that was cut short for a whole one.
    """
    with _reported(input), open_bytes(input.address) as raw:
        if input.packing == ".gz":
            yield gzip.GzipFile(fileobj=raw)  # type: ignore[misc]
        elif input.packing == ".zst":
            try:
                import pyarrow
            except ImportError:
                raise missing("pyarrow", input.name) from None
            yield io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd"), CHUNK)
        else:
            yield raw


def chunks(file: BinaryIO) -> Iterator[bytes]:
    while raw := file.read(CHUNK):
        yield raw


@contextlib.contextmanager
def _reported(input: Input) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(input.name, error) from None
    except Exception as error:
        if type(error).__module__.split(".")[0] != "pyarrow" and not isinstance(error, UnicodeDecodeError):
            raise
        raise KiaraError(f"{input.name} is damaged ({str(error).splitlines()[0]})", "copy it again") from None
