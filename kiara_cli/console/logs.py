"""Log records: to a rotating file in the run's folder at DEBUG, to stderr at the configured level."""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path

from rich.logging import RichHandler

from kiara_cli.console.output import stderr

FILE_BYTES, FILES = 1_000_000, 3
FORM = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def start_logging(level: str, folder: Path | None = None) -> None:
    """Send Kiara's own records to the console and, given a folder, to kiara.log in it; quieten everyone else's."""
    logger = logging.getLogger("kiara")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    console = RichHandler(console=stderr(), show_path=False, show_time=False)
    console.setLevel(level.upper())
    logger.addHandler(console)
    if folder is not None:
        file = logging.handlers.RotatingFileHandler(
            folder / "kiara.log", maxBytes=FILE_BYTES, backupCount=FILES, encoding="utf-8"
        )
        file.setFormatter(logging.Formatter(FORM))
        logger.addHandler(file)
    logging.getLogger().setLevel(logging.WARNING)
