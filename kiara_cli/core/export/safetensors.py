"""One .safetensors file: the weights, with config, tokenizer and metrics as JSON in its metadata.

In: a checkpoint. Out: the file, which every program that knows the format opens, and every command of Kiara reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kiara_cli.core.checkpoint import files
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.export.target import check_free, check_suffix


@contextmanager
def writing(checkpoint: Checkpoint, path: Path) -> Iterator[Path]:
    """Write the file. Raises KiaraError if something is at `path`, OSError if it cannot be written."""
    check_suffix(path, (".safetensors",))
    check_free(path)
    files.save(dataclasses.replace(checkpoint, optimizer=None, progress=None), path)
    yield path
