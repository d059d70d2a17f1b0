"""A PDF → the text of its pages, by pypdf or by a command of the person's own (retrieve.pdf_command).

In: a file. Out: a section for each page, whose lines are those of the text on it.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from kiara_cli.core.data.charset import decode_text
from kiara_cli.core.data.inputs import Input
from kiara_cli.core.data.slices import opened
from kiara_cli.core.retrieve.chunk import Section
from kiara_cli.core.retrieve.outline import numbered
from kiara_cli.errors import KiaraError

SECONDS = 600  # for the command


def pages(input: Input, command: str | None) -> Iterator[Section]:
    """Yield the pages that hold any text. Raises KiaraError."""
    for number, text in enumerate(_by_command(input, command) if command else _by_library(input), 1):
        if text.strip():
            yield Section((f"page {number}",), tuple(numbered(text)))


def _by_library(input: Input) -> Iterator[str]:
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError:
        raise KiaraError(
            f"{input.name} needs pypdf, which is not installed",
            "run: pip install 'kiara-slm[retrieval]', or set retrieve.pdf_command='pdftotext {} -'",
        ) from None
    with opened(input) as file:
        try:
            for page in PdfReader(file).pages:
                yield page.extract_text()
        except (PyPdfError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise KiaraError(
                f"cannot read the PDF {input.name}: {str(error) or type(error).__name__}",
                "give another file, or its text",
            ) from None


def _by_command(input: Input, command: str) -> Iterator[str]:
    """Run the command, without a shell; {} stands for the file. What it writes has a form feed between pages."""
    path = str(Path(input.address).absolute())  # never an option
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if not words:
        raise KiaraError(f"retrieve.pdf_command={command} is no command", "such as: 'pdftotext {} -'")
    if any("{}" in word for word in words):
        words = [word.replace("{}", path) for word in words]
    else:
        words.append(path)
    try:
        done = subprocess.run(words, capture_output=True, timeout=SECONDS, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or "it takes too long"
        raise KiaraError(f"cannot run {words[0]}: {reason}", "check retrieve.pdf_command") from None
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())[:200]
        raise KiaraError(
            f"{words[0]} cannot read {input.name} (status {done.returncode}): {said}", "check retrieve.pdf_command"
        )
    yield from decode_text(done.stdout, input.name).split("\f")
