"""Tasks by what a person typed: files of multiple choice, files and names of lm-evaluation-harness.

In: an opened checkpoint and `Tasks`. Out: one record of figures for each task.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiara_cli.core.eval.questions import Question, answer, read_questions
from kiara_cli.core.generate.opened import Opened
from kiara_cli.errors import KiaraError


@dataclass(frozen=True)
class Tasks:
    """Questions of one's own, by their files, and what is for the harness."""

    own: dict[str, list[Question]]
    harness: tuple[str, ...]
    limit: int | None = None  # the first questions of each task only
    shots: int | None = None  # examples before each question, for the harness
    trusted: bool = False  # Python that files of the harness name may be run


def read_tasks(
    words: Iterable[str], limit: int | None = None, shots: int | None = None, trusted: bool = False
) -> Tasks:
    """Read what was typed, with commas or without, and the files of questions. Raises KiaraError."""
    names = list(dict.fromkeys(name for word in words for name in word.split(",") if name))
    own = {name: read_questions(Path(name))[:limit] for name in names if name.endswith((".jsonl", ".json"))}
    harness = tuple(name for name in names if name not in own)
    if harness and importlib.util.find_spec("lm_eval") is None:
        raise KiaraError(
            f"{harness[0]} is a task for the package lm-eval, which is not installed",
            "pip install 'kiara-slm[eval]'; multiple choice in a .jsonl needs no package",
        )
    return Tasks(own, harness, limit, shots, trusted)


def run_tasks(opened: Opened, tasks: Tasks) -> Iterator[dict[str, Any]]:
    """Yield the figures of each task as JSON values. Raises KiaraError."""
    for name, questions in tasks.own.items():
        yield answer(opened, name, questions).record()
    if tasks.harness:
        from kiara_cli.core.eval import harness

        for name, figures in harness.run(opened, tasks.harness, tasks.shots, tasks.limit, tasks.trusted).items():
            yield {"task": name, **figures}
