"""Multiple-choice questions in a file of JSON lines, and how many of them a model answers rightly.

In: lines such as {"context": "The capital of France is", "choices": ["Rome", "Paris"], "answer": 1}; `question` is
another word for `context`, and `answer` is the number of a choice, counted from 0, or its text. Out: `Answers`.

A choice is scored as the continuation of its context, with a space between the two unless one of them brings white
space.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiara_cli.config.folders import as_path
from kiara_cli.core.eval.choices import Likelihood, encode_pair, log_likelihoods
from kiara_cli.core.generate.opened import Opened
from kiara_cli.errors import KiaraError

FORM = 'write {"context": "…", "choices": ["…", "…"], "answer": 0}'


@dataclass(frozen=True)
class Question:
    context: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Answers:
    """Shares of questions whose right choice was the likeliest: as a whole, for each of its bytes, of its tokens."""

    task: str
    questions: int
    accuracy: float
    accuracy_per_byte: float
    accuracy_per_token: float
    standard_error: float | None  # of the accuracy; None for a single question
    chance: float  # what guessing would get
    likelihoods: tuple[tuple[Likelihood, ...], ...]  # of each question's choices

    def record(self) -> dict[str, Any]:
        """Return it as JSON values, without the single likelihoods."""
        return {name: value for name, value in vars(self).items() if name != "likelihoods"}


def read_questions(path: Path) -> list[Question]:
    """Read a file of questions. Raises KiaraError naming the line that is none."""
    try:
        lines = Path(as_path(str(path))).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise KiaraError(f"cannot read the task {path}: {reason}", "give a file of JSON lines") from None
    found = [_question(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise KiaraError(f"{path} holds no question", FORM)
    return found


def _question(line: str, origin: str) -> Question:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise KiaraError(f"{origin} is no JSON", FORM) from None
    fields = value if isinstance(value, dict) else {}
    context = fields.get("context", fields.get("question"))
    for name, given in {"context": context, "choices": fields.get("choices"), "answer": fields.get("answer")}.items():
        if given is None:
            raise KiaraError(f"{origin} has no '{name}'", FORM)
    if not isinstance(context, str):
        raise KiaraError(f"{origin}: 'context' is no text", FORM)
    choices = _choices(fields["choices"], origin)
    return Question(context, choices, _answer(fields["answer"], choices, origin))


def _choices(given: Any, origin: str) -> tuple[str, ...]:
    if not isinstance(given, list) or len(given) < 2 or not all(isinstance(choice, str) for choice in given):
        raise KiaraError(f"{origin}: 'choices' is no list of two or more texts", FORM)
    if empty := [number for number, choice in enumerate(given) if not choice.strip()]:
        raise KiaraError(f"{origin}: choice {empty[0]} is empty", "a choice needs a text that can be scored")
    return tuple(given)


def _answer(given: Any, choices: Sequence[str], origin: str) -> int:
    if isinstance(given, str) and choices.count(given) == 1:
        return choices.index(given)
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < len(choices):
        shown = json.dumps(given, ensure_ascii=False)
        remedy = f"give a number from 0 to {len(choices) - 1}, or the text of one choice"
        raise KiaraError(f"{origin}: the answer {shown} is none of its choices", remedy)
    return given


def joined(context: str, choice: str) -> tuple[str, str]:
    """Return the two with a space between them, unless there is white space or nothing before it."""
    apart = not context or context[-1].isspace() or choice[0].isspace()
    return context, choice if apart else f" {choice}"


def answer(opened: Opened, task: str, questions: Sequence[Question]) -> Answers:
    """Score all choices of all questions."""
    pairs = [
        encode_pair(opened.tokenizer, *joined(question.context, choice))
        for question in questions
        for choice in question.choices
    ]
    scored = dict(log_likelihoods(opened.model, opened.runtime, pairs, opened.config.eval.batch_size))
    likelihoods, right, first = [], [0, 0, 0], 0
    for question in questions:
        own = tuple(scored[first + index] for index in range(len(question.choices)))
        first += len(own)
        likelihoods.append(own)
        sizes = (
            [1] * len(own),
            [len(choice.encode()) for choice in question.choices],
            [one.tokens for one in own],
        )
        for way, units in enumerate(sizes):
            each = [one.logprob / unit for one, unit in zip(own, units, strict=True)]
            right[way] += each.index(max(each)) == question.answer
    number = len(questions)
    share = right[0] / number
    error = math.sqrt(share * (1 - share) / (number - 1)) if number > 1 else None
    chance = sum(1 / len(question.choices) for question in questions) / number
    return Answers(task, number, share, right[1] / number, right[2] / number, error, chance, tuple(likelihoods))
