"""What every command prints with: results to stdout, everything else to stderr.

No colours where the stream is not a terminal, unless FORCE_COLOR asks for them, or with NO_COLOR; cursor codes never
where it is none. Every console of rich's is made here.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterable
from typing import Any, Literal, TextIO, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table

# Of C0 (but tab and line feed), DEL and C1: ␀ to ␟, ␡ and the sign for what cannot be shown.
SIGNS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
WARNING = "warning: "
SIGNS |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


_lines: logging.Formatter | None = None  # with which stderr is written as records


class Records(io.TextIOBase):
    """Makes a log record of every line that is written to it."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self.formatter = formatter

    def write(self, text: str) -> int:
        for line in filter(str.strip, text.splitlines()):
            level = logging.WARNING if line.startswith(WARNING) else logging.INFO
            message = line.removeprefix(WARNING).strip()
            made = logging.LogRecord("kiara.console", level, "", 0, message, (), None)
            sys.stderr.write(self.formatter.format(made) + "\n")
        return len(text)


def as_records(formatter: logging.Formatter | None) -> None:
    """From now on write what is said on stderr as log records; None: as it is."""
    global _lines
    _lines = formatter


def console(stream: TextIO | None = None, **options: Any) -> Console:
    """Return a console on a stream; by default on stderr as it is now (tests and pipes replace it)."""
    stream = stream or sys.stderr
    if stream is sys.stderr and _lines is not None:
        stream, options = cast(TextIO, Records(_lines)), {**options, "width": 10_000}
    terminal = stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    colours = os.environ.get("FORCE_COLOR") and not os.environ.get("NO_COLOR")
    system: Literal["auto", "standard"] = "auto" if terminal or not colours else "standard"
    return Console(
        file=stream,
        highlight=False,
        force_terminal=terminal,
        force_interactive=terminal,
        color_system=system,
        **options,
    )


def stderr() -> Console:
    """Return a console on stderr that leaves the breaking of lines to the terminal."""
    return console(soft_wrap=True)


def result(text: str) -> None:
    """Write a line of result."""
    sys.stdout.write(harmless(text) + "\n")


def heading(text: str) -> None:
    """Write a line of result that stands out on a terminal."""
    console(sys.stdout, soft_wrap=True).print(f"[bold]{escape(harmless(text))}[/]")


def stream(text: str) -> None:
    """Write a piece of result at once."""
    if text:
        sys.stdout.write(harmless(text))
        sys.stdout.flush()


def harmless(text: str) -> str:
    """Return a text as a terminal may have it: control characters, which could command it, as signs.

    Where stdout is no terminal the text stays as it is.
    """
    return text.translate(SIGNS) if sys.stdout.isatty() else text


def plain(text: str) -> str:
    """Return a text without control characters, for stderr."""
    return text.translate(SIGNS)


def record(values: dict[str, Any]) -> None:
    """Write one JSON object on a line of its own."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Say something on stderr."""
    stderr().print(escape(text))


def warn(text: str) -> None:
    """Say something on stderr that should not be missed."""
    stderr().print(f"[yellow]{WARNING}[/]{escape(text)}")


def hint(text: str) -> None:
    """Suggest the next thing to type."""
    stderr().print(f"[dim]{escape(text)}[/]")


def facts(title: str, rows: Iterable[tuple[str, str]], to_stdout: bool = False) -> None:
    """Print aligned name–value rows under a title."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, escape(value))
    stream = sys.stdout if to_stdout else sys.stderr
    printer = console(stream, width=None if stream.isatty() else 200)
    if title:
        printer.print(f"[bold]{escape(title)}[/]")
    printer.print(table)


def table(rows: list[dict[str, str]]) -> None:
    """Print rows that share their keys as a table on stdout."""
    grid = Table(box=None, padding=(0, 2, 0, 0))
    for name in rows[0]:
        grid.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        grid.add_row(*map(escape, row.values()))
    console(sys.stdout, width=None if sys.stdout.isatty() else 200).print(grid)


def columns(rows: list[dict[str, str]]) -> None:
    """Print rows that share their keys as a table of texts on stdout; long ones are broken."""
    grid = Table(box=None, padding=(0, 2, 0, 0))
    for name in rows[0]:
        grid.add_column(name, justify="left" if name else "right", no_wrap=not name, overflow="fold")
    for row in rows:
        grid.add_row(*map(escape, row.values()))
    console(sys.stdout, width=None if sys.stdout.isatty() else 200).print(grid)


def amount(number: float, unit: str = "") -> str:
    """Write a number the way people say it: 1.2 M, 34 k, 5.6 G."""
    for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}".strip()


def duration(seconds: float) -> str:
    """Write seconds as 12 s, 3:05 or 1:02:03."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
