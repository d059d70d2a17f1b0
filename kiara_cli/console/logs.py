"""Log records: to a rotating file in the run's folder at DEBUG, to stderr at the configured level."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape

from kiara_cli.console.output import stderr

FILE_BYTES, FILES = 1_000_000, 3
FORM = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class Screen(logging.Handler):
    """Show records to a person: what is only information as it stands, the rest with its name in front."""

    def __init__(self, console: Console | None) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        name = f"[yellow]{record.levelname.lower()}:[/] " if record.levelno > logging.INFO else ""
        (self.console or stderr()).print(name + escape(self.format(record)), soft_wrap=True)


def start_logging(level: str, folder: Path | None = None, console: Console | None = None) -> None:
    """Send Kiara's own records to the console and, given a folder, to kiara.log in it; quieten everyone else's.

    A live panel hands in its own console, so that records appear above it.
    """
    logger = logging.getLogger("kiara")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    screen = Screen(console)
    screen.setLevel(level.upper())
    logger.addHandler(screen)
    if folder is not None:
        file = logging.handlers.RotatingFileHandler(
            folder / "kiara.log", maxBytes=FILE_BYTES, backupCount=FILES, encoding="utf-8"
        )
        file.setFormatter(logging.Formatter(FORM))
        logger.addHandler(file)
    logging.getLogger().setLevel(logging.WARNING)


class Lines(logging.Formatter):
    """Write a record with its fields as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": time, **getattr(record, "fields", {})})


def start_access_log(form: Literal["off", "text", "json"]) -> None:
    """Say on stderr what the server was asked for, a line each."""
    logger = logging.getLogger("kiara.access")
    logger.setLevel(logging.INFO)
    logger.disabled = form == "off"
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines() if form == "json" else logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
