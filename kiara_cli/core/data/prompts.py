"""A file of prompts → texts to continue.

In: JSON lines or a JSON array of {"prompt": …}, or a plain text that is one prompt. Out: the texts, and
what there is to say about how they were read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

from kiara_cli.config.folders import as_path
from kiara_cli.core.data.charset import read_text
from kiara_cli.core.data.inputs import find_inputs
from kiara_cli.core.data.listing import is_pipe
from kiara_cli.core.data.notices import Notices
from kiara_cli.core.data.pipes import Pipes
from kiara_cli.core.data.readers import check_text
from kiara_cli.core.data.records import json_lines, json_values
from kiara_cli.core.data.slices import Reading, Slice
from kiara_cli.errors import KiaraError

REMEDY = 'write one JSON object a line: {"prompt": "…"}'


def read_prompts(path: str, encoding: str | None, notices: Notices) -> list[str]:
    """Return the prompt of every record of a file. Raises KiaraError naming the line at fault."""
    texts = []
    for origin, value in _records(as_path(path), Reading(encoding=encoding, notices=notices)):
        text = value.get("prompt") if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise KiaraError(f"{origin} is no prompt", REMEDY)
        check_text(text, origin)
        texts.append(text)
    if not texts:
        raise KiaraError(f"{path} holds no prompts", REMEDY)
    return texts


def _records(path: str, reading: Reading) -> Iterator[tuple[str, Any]]:
    with closing(Pipes()) as pipes:
        for found in [pipes.take(path, reading.notices)] if is_pipe(path) else find_inputs(path, reading.notices):
            if found.kind == "json":
                yield from json_values(Slice(found), reading)
            else:  # whatever its name
                yield from json_lines(Slice(replace(found, kind="jsonl")), reading)


def read_prompt(path: str, encoding: str | None, notices: Notices) -> str:
    """Return a text file as one prompt, less one newline at its end. Raises KiaraError."""
    return read_text(as_path(path), encoding, notices).removesuffix("\n")
