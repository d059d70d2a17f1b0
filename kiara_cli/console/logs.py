"""Log records: to stderr at the configured level, to rotating files at DEBUG; as text or as JSON lines.

In: the section `logging`, a run's folder. Out: handlers on the loggers `kiara`, `kiara.access` and the root. Other
libraries' records go to the files from WARNING on, and to stderr from ERROR on.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape

from kiara_cli.config.folders import expanded
from kiara_cli.config.schema import LoggingConfig
from kiara_cli.console import output

FORM = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class Text(logging.Formatter):
    """Write a record as a line that begins with the time and its offset from UTC."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


class Lines(logging.Formatter):
    """Write a record as one JSON object; `fields`, which a record may carry, stand in for its message."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": time, "level": record.levelname.lower(), "logger": record.name}
        line |= getattr(record, "fields", None) or {"message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class Screen(logging.Handler):
    """Show records to a person: what is only information as it stands, the rest with its name in front."""

    def __init__(self, console: Console | None) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(self.formatter, Lines):
            sys.stderr.write(self.format(record) + "\n")
            return
        name = f"[yellow]{record.levelname.lower()}:[/] " if record.levelno > logging.INFO else ""
        (self.console or output.stderr()).print(name + escape(self.format(record)), soft_wrap=True)


class File(logging.handlers.RotatingFileHandler):
    """A file of a bounded size and the ones before it; where it cannot be written that is said once."""

    def handleError(self, record: logging.LogRecord) -> None:
        for logger in map(logging.getLogger, ("", "kiara", "kiara.access")):
            logger.removeHandler(self)
        output.warn(f"{self.baseFilename} cannot be written ({sys.exc_info()[1]}): no more records go there")


def start_logging(settings: LoggingConfig, folder: Path | None = None, console: Console | None = None) -> None:
    """Send records to stderr, to the file that the settings name and, given a folder, to kiara.log in it.

    A live panel hands in its own console, so that records appear above it. Raises OSError for a file that cannot be
    written.
    """
    form = Lines() if settings.format == "json" else Text(FORM)
    output.as_records(form if isinstance(form, Lines) else None)
    paths = [folder / "kiara.log"] if folder is not None else []
    if settings.file is not None and os.environ.get("RANK", "0") == "0":  # of several processes the first
        paths.append(expanded(settings.file))
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
    files: list[logging.Handler] = []
    for path in paths:
        files.append(File(path, maxBytes=settings.file_bytes, backupCount=settings.files, encoding="utf-8"))
        files[-1].setFormatter(form)
    own, theirs = logging.getLogger("kiara"), logging.getLogger()
    own.setLevel(logging.DEBUG)
    own.propagate = False
    theirs.setLevel(logging.WARNING)
    _replace(own, [_screen(settings.level.upper(), form, console), *files])
    _replace(theirs, [_screen("ERROR", form, console), *files])
    _replace(logging.getLogger("kiara.access"), [])


def start_access_log(form: Literal["off", "text", "json"]) -> None:
    """Say on stderr, and in the file of the log, what the server was asked for, a line each."""
    logger, own = logging.getLogger("kiara.access"), logging.getLogger("kiara").handlers
    logger.setLevel(logging.INFO)
    logger.disabled = form == "off"
    logger.propagate = False
    lines = form == "json" or any(isinstance(handler.formatter, Lines) for handler in own)
    screen = logging.StreamHandler(sys.stderr)
    screen.setFormatter(Lines() if lines else Text("%(asctime)s %(message)s"))
    _replace(logger, [screen, *(handler for handler in own if isinstance(handler, File))])


def _screen(level: str, form: logging.Formatter, console: Console | None) -> Screen:
    screen = Screen(console)
    screen.setLevel(level)
    if isinstance(form, Lines):
        screen.setFormatter(form)
    return screen


def _replace(logger: logging.Logger, handlers: list[logging.Handler]) -> None:
    """Take away the handlers that were put there before, and nobody else's."""
    for handler in list(logger.handlers):
        if isinstance(handler, Screen | File) or not isinstance(logger, logging.RootLogger):
            logger.removeHandler(handler)
            if handler not in handlers:
                handler.close()
    for handler in handlers:
        logger.addHandler(handler)
