"""Files of JSON to records: JSON lines, a JSON array.

In: a slice of an input. Out: where each record stands, and its value. Lines end at line feeds and nowhere else. What
is no record is one clear error with its line, or is left out and counted.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from kiara_cli.core.data.charset import Strays, decode_chunks, detect, title
from kiara_cli.core.data.formats import CORRECT
from kiara_cli.core.data.inputs import Input
from kiara_cli.core.data.slices import CHUNK, Reading, Slice, chunks, opened
from kiara_cli.errors import KiaraError

DIGITS = 4000  # of a whole number
LONGEST = 1 << 26  # characters of one value in a JSON array
OPENING = re.compile(r"[\s\ufeff]*\[?\s*")
BETWEEN = re.compile(r"[\s,\]]*")


class _Decoder:
    """JSON as RFC 8259 has it: no NaN, no Infinity; and no number that Python would not take."""

    def __init__(self) -> None:
        self._odd = ""
        self._json = json.JSONDecoder(parse_constant=self._constant, parse_int=self._integer)

    def _constant(self, name: str) -> None:
        self._odd = f"{name} is no JSON"

    def _integer(self, digits: str) -> int:
        if len(digits) > DIGITS:
            self._odd = f"it holds a number of {len(digits):,} digits"
            return 0
        return int(digits)

    def read(self, text: str, start: int) -> tuple[Any, int, str]:
        """Return the value that begins at a place, where it ends, and what is wrong with it. Raises ValueError."""
        self._odd = ""
        try:
            value, end = self._json.raw_decode(text, start)
        except RecursionError:
            return None, len(text), "it is nested too deeply"
        return value, end, self._odd


DECODER = _Decoder()


def json_lines(part: Slice, reading: Reading) -> Iterator[tuple[str, Any]]:
    """Yield the value of every line that begins in a slice of a file of JSON lines."""
    for number, line in _lines(part, reading):
        text = line.strip()
        if not text:
            continue
        origin = f"{part.input.name}, line {number}"
        try:
            value, end, odd = DECODER.read(text, 0)
            odd = odd or ("there is more after its end" if end < len(text) else "")
        except json.JSONDecodeError as error:
            if number == 1:
                _refuse_binary(part.input)
            odd = f"{error.msg[:1].lower()}{error.msg[1:]} at character {error.pos + 1}"
        if odd:
            reading.bad(KiaraError(f"{origin} is not JSON ({odd})", CORRECT))
        else:
            yield origin, value


def json_values(part: Slice, reading: Reading) -> Iterator[tuple[str, Any]]:
    """Yield the values of a JSON file: of an array, of lines, or one after the other; in bounded memory.

    An array of messages is one conversation.
    """
    if holds_json_lines(part.input, reading):
        yield from json_lines(part, reading)
        return
    talk: list[Any] = []
    for origin, value in _values(part, reading):
        if isinstance(value, dict) and value.keys() >= {"role", "content"} and "messages" not in value:
            talk.append(value)
        else:
            yield origin, value
    if talk:
        yield part.input.name, {"messages": talk}


def holds_json_lines(input: Input, reading: Reading) -> bool:
    """Say whether the first line of a file that is not blank is a whole JSON object."""
    for _, line in _lines(Slice(input), reading.anew()):
        if text := line.strip():
            try:
                value, end, _ = DECODER.read(text, 0)
            except json.JSONDecodeError:
                return False
            return isinstance(value, dict) and end == len(text)
    return False


def _lines(part: Slice, reading: Reading) -> Iterator[tuple[int, str]]:
    """Yield the lines that begin in a slice, numbered from the beginning of the input."""
    encoding = reading.encoding
    if encoding is None:
        with opened(part.input) as file:
            encoding = json.detect_encoding(file.read(4))
    with opened(part.input) as file:
        start, end = part.range
        if encoding.startswith(("utf-16", "utf-32")):
            if start == 0:  # it cannot be cut between bytes: the first slice takes all of it
                _tell(part.input, encoding, reading)
                yield from enumerate(split_lines(decode_chunks(chunks(file), encoding)), 1)
            return
        at, number = 0, 1
        if start:
            number += _newlines(file, start - 1) + 1
            file.seek(start - 1)
            at = start - 1 + len(file.readline())  # the end of a line that began before
        while part.of == 1 or at < end:
            if not (line := file.readline()):
                return
            at += len(line)
            yield number, _decoded(line.removeprefix(codecs.BOM_UTF8), number, part.input, reading)
            number += 1


def _decoded(line: bytes, number: int, input: Input, reading: Reading) -> str:
    """Decode a line: as UTF-8, or if it is none, in the encoding that all such lines of the file look like."""
    try:
        return line.decode(reading.encoding or "utf-8")
    except UnicodeDecodeError:
        pass
    if reading.encoding is None and input not in reading.pages:
        try:
            with opened(input) as file:
                reading.pages[input] = detect(chunks(file), input.name)
        except KiaraError:
            reading.pages[input] = "utf-8"  # it cannot be told
    encoding = reading.encoding or reading.pages[input]
    _tell(input, encoding, reading)
    text = line.decode(encoding, errors="replace")
    if "\ufffd" in text:
        reading.notices.add(f"bytes that are no {title(encoding)} became U+FFFD", f"{input.name}, line {number}")
    return text


def _tell(input: Input, encoding: str, reading: Reading) -> None:
    """Note once that an input is in an encoding that nobody has named."""
    if input not in reading.told:
        reading.told.add(input)
        Strays().note(reading.notices, input.name, encoding, reading.encoding)


def _refuse_binary(input: Input) -> None:
    with opened(input) as file:
        detect([file.read(CHUNK)], input.name)


def split_lines(texts: Iterable[str]) -> Iterator[str]:
    """Cut a stream of text at line feeds, which are left out."""
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


def _values(part: Slice, reading: Reading) -> Iterator[tuple[str, Any]]:
    """Yield the values of an array, or values that follow each other, with the line at which each begins."""
    with opened(part.input) as file:
        encoding = detect(chunks(file), part.input.name, reading.encoding)
    strays = Strays()
    with opened(part.input) as file:
        pieces = decode_chunks(chunks(file), encoding, strays)
        held, at, line, between = next(pieces, ""), 0, 1, OPENING
        while True:
            match = between.match(held, at)
            assert match is not None
            line, at, between = line + match.group().count("\n"), match.end(), BETWEEN
            if at == len(held):
                if not (held := "".join(_take(pieces, 1))):
                    break
                at = 0
                continue
            origin = f"{part.input.name}, line {line}"
            try:
                value, end, odd = DECODER.read(held, at)
            except json.JSONDecodeError as error:
                rest = len(held) - at
                if rest < LONGEST and (more := "".join(_take(pieces, rest))):  # it may just not be whole yet
                    held, at = held[at:] + more, 0
                    continue
                where = line + held.count("\n", at, error.pos)
                reading.bad(KiaraError(f"{part.input.name}, line {where} is not JSON ({error.msg})", CORRECT))
                break
            line, at = line + held.count("\n", at, end), end
            if odd:
                reading.bad(KiaraError(f"{origin} is not JSON ({odd})", CORRECT))
            else:
                yield origin, value
    strays.note(reading.notices, part.input.name, encoding, reading.encoding)


def _take(pieces: Iterator[str], size: int) -> Iterator[str]:
    """Take pieces until they hold that many characters, so that a long value is tried a few times only."""
    taken = 0
    while taken < size and (piece := next(pieces, None)) is not None:
        taken += len(piece)
        yield piece
