"""Bytes of any text to characters: which encoding they are in, and what is no text at all.

In: bytes, and the encoding where a person has named it. Out: text, and remarks about what was not plain UTF-8.
A byte-order mark decides; then UTF-16 and UTF-32 by their shape; then UTF-8, unless more of its sequences are broken
than whole; then the code page that a sample looks like. Stray bytes become U+FFFD, which is said.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from kiara_cli.core.data.notices import Notices
from kiara_cli.core.data.places import open_bytes, unreadable
from kiara_cli.errors import KiaraError

BOMS = {  # the longer first: that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
MAGIC = {
    b"%PDF-": "a PDF", b"PK\x03\x04": "a zip archive or an office document", b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image", b"GIF8": "an image", b"\x1f\x8b": "packed with gzip: let its name end in .gz",
    b"\x28\xb5\x2f\xfd": "packed with zstd: let its name end in .zst", b"PAR1": "a table in Parquet",
    b"SQLite format 3\0": "a database", b"\x7fELF": "a program", b"{\\rtf": "a document in RTF",
}  # fmt: skip
HEAD = 10_000  # characters that are searched for control codes
CONTROLS = {code: None for code in (*range(1, 9), *range(14, 27), *range(28, 32))}  # 27 colours the logs of programs
CONTROL_SHARE = 0.05  # of the head; above it a file is binary (a guess; of random bytes it is 0.1)
NUL_SHARE = 1 / 200  # of all bytes; above it a file is binary (a guess; programs and images have ten times that)
SAMPLE = 1 << 16  # bytes by which a code page is told
TITLES = {
    "cp1250": "Windows-1250", "cp1251": "Windows-1251", "cp1252": "Windows-1252", "cp1253": "Windows-1253",
    "cp1254": "Windows-1254", "cp1255": "Windows-1255", "cp1256": "Windows-1256", "cp932": "Shift-JIS",
    "cp949": "EUC-KR", "koi8_r": "KOI8-R", "iso8859_2": "ISO-8859-2", "iso8859_5": "ISO-8859-5",
}  # fmt: skip
ONE_BYTE = (  # likeliest first: where a sample looks as good in several, the first is taken
    "cp1252", "cp1251", "koi8_r", "cp1250", "iso8859_2", "cp1254", "cp1253", "cp1255", "cp874", "cp1256", "cp866",
    "mac_roman", "cp850", "iso8859_5",
)  # fmt: skip
TWO_BYTES = {  # the characters that everyday text is made of, and all others
    "cp932": (rb"\x81[\x40-\xac]|\x82[\x4f-\xf1]|\x83[\x40-\x96]|[\x88-\x97][\x40-\xfc]",
              rb"[\x81-\x9f\xe0-\xfc][\x40-\xfc]|[\xa1-\xdf]"),
    "cp949": (rb"[\xa1-\xa3\xb0-\xc8][\xa1-\xfe]", rb"[\x81-\xfe][\x41-\xfe]"),
    "gb18030": (rb"[\xa1-\xa3\xb0-\xd7][\xa1-\xfe]",
                rb"[\x81-\xfe][\x40-\xfe]|[\x81-\xfe][0-9][\x81-\xfe][0-9]"),
    "euc_jp": (rb"[\xa1\xa3-\xa5\xb0-\xcf][\xa1-\xfe]", rb"[\xa1-\xfe]{2}|\x8e[\xa1-\xdf]|\x8f[\xa1-\xfe]{2}"),
    "big5": (rb"[\xa1-\xc6][\x40-\x7e\xa1-\xfe]", rb"[\x81-\xfe][\x40-\x7e\xa1-\xfe]"),
}  # fmt: skip
EVERYDAY = 0.85  # the share of everyday characters in a text that is in that encoding (a guess; Chinese has 0.97)
SCRIPTS = re.compile(  # Latin, Greek, Cyrillic, Hebrew, Arabic; kana and Han; Hangul; full width
    "[\t\n\r -~\xa0-\u024f\u0370-\u06ff\u2010-\u2026\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff65]"
)
SPACES = re.compile("[\n \u3001\u3002\uff0c]")  # without any of these, two bytes a character are hardly text


class BinaryError(KiaraError):
    """A file that is no text: refused where a person named it, left out of a folder."""


@dataclass
class Strays:
    """What was odd in a text, counted while it is decoded."""

    replaced: int = 0
    line: int = 0  # of the first that was replaced
    nuls: int = 0
    at: int = 0  # the byte of the first NUL

    def note(self, notices: Notices, origin: str, encoding: str, given: str | None = None) -> None:
        """Say it, and the encoding where no person has named it."""
        if not encoding.startswith("utf-8") and encoding != given:
            notices.add(f"read as {title(encoding)}; if that is wrong, set data.encoding", origin)
        if self.replaced:
            notices.add(f"bytes that are no {title(encoding)} became U+FFFD",
                        f"{origin} ({self.replaced:,}, first in line {self.line:,})")  # fmt: skip
        if self.nuls:
            notices.add("NUL bytes were kept", f"{origin} ({self.nuls:,}, first at byte {self.at:,})")


def title(encoding: str) -> str:
    """Return the name by which people know an encoding, and Python's: Windows-1251 (cp1251)."""
    return f"{TITLES[encoding]} ({encoding})" if encoding in TITLES else encoding.upper().removesuffix("-SIG")


def read_text(path: str, encoding: str | None = None, notices: Notices | None = None) -> str:
    """Read a text file whatever its encoding; what there is to say about it is added to the notices.

    Raises KiaraError.
    """
    with open_bytes(path) as file:
        try:
            raw = file.read()
        except OSError as error:
            raise unreadable(path, error) from None
    return decode_text(raw, path, encoding, notices)


def decode_text(raw: bytes, origin: str, encoding: str | None = None, notices: Notices | None = None) -> str:
    """Decode the bytes of a text. Newlines are kept as they are, but \\r\\n becomes \\n. Raises KiaraError."""
    found, strays = detect([raw], origin, encoding), Strays()
    text = "".join(decode_chunks([raw], found, strays))
    if notices is not None:
        strays.note(notices, origin, found, encoding)
    return text


def decode_chunks(chunks: Iterable[bytes], encoding: str, strays: Strays | None = None) -> Iterator[str]:
    """Decode a text piece by piece; joined, the pieces are the whole. Strays are counted."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    held, tail, lines, size = "", b"", 1, 0  # held: a carriage return whose newline may be in the next chunk
    for raw in chain(chunks, [b""]):
        decoded = decoder.decode(raw, final=not raw)
        if strays is not None:
            if "\ufffd" in decoded and (own := _count_replaced(decoded, tail + raw, encoding)):
                strays.line = strays.line or lines + decoded.count("\n", 0, decoded.index("\ufffd"))
                strays.replaced += own
            if b"\0" in raw and not encoding.startswith(("utf-16", "utf-32")):
                strays.at = strays.at if strays.nuls else size + raw.index(b"\0")
                strays.nuls += raw.count(b"\0")
            tail, lines, size = raw[-2:], lines + decoded.count("\n"), size + len(raw)
        text = held + decoded
        held = "\r" if raw and text.endswith("\r") else ""
        yield text[: len(text) - len(held)].replace("\r\n", "\n")


def detect(chunks: Iterable[bytes], origin: str, given: str | None = None) -> str:
    """Name the encoding of a text after reading all of it in bounded memory; `given` is what a person says it is.

    Raises BinaryError for what is no text, KiaraError for an encoding that cannot be told.
    """
    chunks = iter(chunks)
    first = next(chunks, b"")
    if kind := next((kind for magic, kind in MAGIC.items() if first.startswith(magic)), None):
        raise BinaryError(f"{origin} is a binary file, not text (it is {kind})", "give a text file")
    known = next((name for mark, name in BOMS.items() if first.startswith(mark)), None)
    known = known or given or _wide(first)
    if known is not None and known.startswith(("utf-16", "utf-32")):
        return known
    if reason := _binary(first):
        raise BinaryError(f"{origin} is a binary file, not text ({reason})", "give a text file")
    if known is not None:
        return known
    whole, broken, sample = _survey(chain([first], chunks))
    if b"\x1b$" in sample and _decodes(sample, "iso2022_jp"):
        return "iso2022_jp"
    if broken <= whole:
        return "utf-8"
    if (found := _two_bytes(sample) or _one_byte(sample)) is None:
        raise KiaraError(
            f"the encoding of {origin} cannot be told: it is not UTF-8",
            "say which it is: data.encoding=cp1252, or another name that Python knows",
        )
    return found


def _count_replaced(decoded: str, raw: bytes, encoding: str) -> int:
    """Count the U+FFFD of a decoded piece that did not stand there."""
    genuine = raw.count(b"\xef\xbf\xbd") if encoding.startswith("utf-8") else 0
    return max(0, decoded.count("\ufffd") - genuine)


def _binary(raw: bytes) -> str | None:
    """Say why the beginning of a file is no text in any encoding of one or two bytes, or None."""
    if raw.count(b"\0") > NUL_SHARE * len(raw):
        return "it holds NUL bytes"
    head = raw[:HEAD].decode("latin-1")
    controls = len(head) - len(head.translate(CONTROLS))
    return "it is full of control codes" if controls > CONTROL_SHARE * len(head) else None


def _wide(raw: bytes) -> str | None:
    """Name the encoding of a text that has no byte-order mark and looks like UTF-16 or UTF-32."""
    raw = raw[: SAMPLE // 4 * 4]
    if len(raw) < 4 or (b"\0" not in raw and _binary(raw) is None):
        return None
    for encoding in WIDE:
        width = 4 if "32" in encoding else 2
        text = codecs.getincrementaldecoder(encoding)("replace").decode(raw[: len(raw) // width * width])
        if "\0" not in text and len(SCRIPTS.findall(text)) > 0.9 * len(text) and SPACES.search(text):
            return encoding
    return None


def _survey(chunks: Iterable[bytes]) -> tuple[int, int, bytes]:
    """Count the sequences beyond ASCII that are whole UTF-8 and that are broken, and sample the lines with any."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    whole = broken = 0
    sample = b""
    for raw in chain(chunks, [b""]):
        text = decoder.decode(raw, final=not raw)
        if not text.isascii():
            here = text.count("\ufffd")
            broken += here
            whole += len(text) - len(text.encode("ascii", "ignore")) - here
        if len(sample) < SAMPLE and (not raw.isascii() or b"\x1b$" in raw):
            lines = raw.split(b"\n")
            lines = lines[bool(sample) and len(lines) > 1 :]  # the first may begin within a character
            odd = b"\n".join(line for line in lines if not line.isascii() or b"\x1b$" in line)
            sample += odd[: SAMPLE - len(sample)]
    return whole, broken, sample


def _decodes(raw: bytes, encoding: str) -> bool:
    try:
        return bool(raw.decode(encoding))
    except UnicodeDecodeError:
        return False


def _two_bytes(sample: bytes) -> str | None:
    """Name the encoding of Chinese, Japanese or Korean that makes everyday characters of a sample."""
    best, found = EVERYDAY, None
    for encoding, (everyday, other) in TWO_BYTES.items():
        pairs = re.compile(rb"(%b)|(%b)|([\x80-\xff])" % (everyday, other))
        usual, unusual, broken = (sum(map(bool, group)) for group in zip(*pairs.findall(sample), strict=True))
        runs = len(re.findall(rb"(?:%b|%b)+" % (everyday, other), sample))
        if usual < 2 or 2 * runs > usual + unusual or broken > 1:  # one may be cut off at the end
            continue
        if (share := usual / (usual + unusual)) > best:
            best, found = share, encoding
    return found


def _one_byte(sample: bytes) -> str | None:
    """Name the code page in which a sample looks like a language; None if it does in none.

    charset-normalizer judges how odd a decoded text is (chaos) and how like a language (coherence); among what it
    finds equally good the usual page wins: by itself it takes French for cp1250 and "Привет" for cp1255.
    """
    from charset_normalizer import CharsetMatch, from_bytes

    tried = (from_bytes(sample, cp_isolation=list(ONE_BYTE), threshold=threshold) for threshold in (0.2, 0.5))
    matches: list[CharsetMatch] = list(next((found for found in tried if len(found)), ()))
    if not matches:
        return None
    chaos = min(match.chaos for match in matches) + 0.002
    matches = [match for match in matches if match.chaos <= chaos]
    best = max(matches, key=lambda match: match.coherence)
    like = best.coherence - 0.06 if best.coherence > 0.2 else 0.0  # less than that says nothing
    names = [name for match in matches if match.coherence >= like for name in match.could_be_from_charset]
    if best.language == "Turkish" and "cp1254" in names:  # differs from cp1252 in six letters
        return "cp1254"
    return min((name for name in names if name in ONE_BYTE), key=ONE_BYTE.index, default=None)
