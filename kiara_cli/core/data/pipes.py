"""What comes through pipes → inputs: kept in files for as long as it is needed, as texts are read more than once.

In: standard input, or a path such as /dev/fd/63 that a shell has made of <(…). Out: an input whose kind is told by
what it holds, as it has no name that would tell.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from kiara_cli.core.data.inputs import STDIN, Input
from kiara_cli.core.data.notices import Notices
from kiara_cli.core.data.places import open_bytes
from kiara_cli.core.data.records import json_values
from kiara_cli.core.data.slices import Reading, Slice, opened
from kiara_cli.errors import KiaraError

PACKED = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}
SAMPLE = 1 << 12  # bytes
TITLES = {"json": "JSON", "parquet": "Parquet"}


class Pipes:
    """Keeps what has come through pipes until it is closed."""

    def __init__(self, stdin: BinaryIO | None = None) -> None:
        self._stdin = stdin
        self._kept: dict[str, Input] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def take(self, source: str, notices: Notices) -> Input:
        """Read a pipe to its end, or what was read of it before. Raises KiaraError if nothing came."""
        if source not in self._kept:
            self._kept[source] = self._read(source)
        kept = self._kept[source]
        if kept.kind != "text":
            notices.add(f"read as {TITLES[kept.kind]}", kept.name)
        return kept

    def _read(self, source: str) -> Input:
        label = "stdin" if source == STDIN else source
        if source == STDIN and self._stdin is None:
            raise KiaraError("- stands for what kiara tokenize reads from a pipe", "give the folder it made")
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="kiara-")
        path = Path(self._folder.name, f"{len(self._kept)}.txt")
        with path.open("wb") as file:
            if self._stdin is not None and source == STDIN:
                shutil.copyfileobj(self._stdin, file)
            else:
                with open_bytes(source) as pipe:
                    shutil.copyfileobj(pipe, file)
        if not path.stat().st_size:
            raise KiaraError(f"{label} is empty", "pipe a text in, or give a path")
        return _sniffed(path, label)


def _sniffed(path: Path, label: str) -> Input:
    """Tell by its beginning how a file is to be read."""
    with path.open("rb") as file:
        head = file.read(4)
    packing = next((packing for magic, packing in PACKED.items() if head.startswith(magic)), "")
    found = Input(str(path), path.stat().st_size, "text", packing, label=label)
    if head == b"PAR1":
        return dataclasses.replace(found, kind="parquet")
    with opened(found) as unpacked:
        sample = unpacked.read(SAMPLE)
    begins = sample.decode(json.detect_encoding(sample), "ignore").lstrip("\ufeff \t\r\n")[:1]
    if begins and begins in "{[":
        _, first = next(json_values(Slice(found), Reading(skip_bad=True)), ("", None))
        return dataclasses.replace(found, kind="json") if isinstance(first, dict) else found
    return found
