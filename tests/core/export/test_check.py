"""When two programs count as running the same model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from kiara_cli.core.export.check import Report, compare, difference, margin, prompts, texts
from kiara_cli.core.export.oracles import Step
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.chat_format import Message


class Scripted:
    """A program that gives the ids it was told to give."""

    name = "scripted"

    def __init__(self, steps: list[Step], shift: int = 0) -> None:
        self.steps, self.shift = steps, shift

    def encode(self, text: str) -> list[int]:
        return [ord(letter) + self.shift for letter in text]

    def encode_talk(self, messages: Sequence[Message]) -> list[int] | None:
        return [len(messages), self.shift] if self.shift < 2 else None

    def continue_greedily(self, prompt: Sequence[int], steps: int) -> list[Step]:
        return self.steps[:steps]


CLEAR, TIE = Step(1, {1: -0.1, 2: -3.0}), Step(1, {1: -0.7, 2: -0.7001})
OTHER, OTHER_TIE = Step(2, {1: -0.1, 2: -3.0}), Step(2, {1: -0.7001, 2: -0.7})


def reported(mine: list[Step], theirs: list[Step], tokenizer: BPETokenizer, shift: int = 0) -> Report:
    ids = np.array(tokenizer.encode("the cat and the dog " * 4), dtype=np.uint32)[:2]
    return compare(Scripted(mine), Scripted(theirs, shift), tokenizer, ids, 16, 1e-3)


def test_equal_programs_pass(tokenizer: BPETokenizer) -> None:
    report = reported([CLEAR, TIE, CLEAR], [CLEAR, TIE, CLEAR], tokenizer)
    assert report.passed
    assert report.steps == report.steps_equal == 6  # from two prompts of one id
    assert report.values()["passed"] is True
    assert "bits_per_byte" not in report.values()


def test_another_choice_between_equals_is_forgiven_and_ends_the_comparison(tokenizer: BPETokenizer) -> None:
    report = reported([CLEAR, TIE, CLEAR], [CLEAR, OTHER_TIE, OTHER], tokenizer)
    assert report.passed
    assert report.steps == report.steps_equal == 2


def test_another_choice_where_one_was_clear_fails(tokenizer: BPETokenizer) -> None:
    report = reported([CLEAR, CLEAR], [CLEAR, OTHER], tokenizer)
    assert not report.passed
    assert (report.steps, report.steps_equal) == (4, 2)


def test_other_ids_for_a_text_fail(tokenizer: BPETokenizer) -> None:
    report = reported([CLEAR], [CLEAR], tokenizer, shift=1)
    assert (report.passed, report.texts, report.texts_equal) == (False, 1, 0)


def test_other_scores_fail(tokenizer: BPETokenizer) -> None:
    report = reported([CLEAR], [Step(1, {1: -0.102, 2: -2.0})], tokenizer)
    assert not report.passed
    assert report.largest_difference == pytest.approx(1.0)


def test_nothing_compared_is_no_pass() -> None:
    assert not Report("x", 0, 0, 0, 0, 0.0, 1.0).passed
    assert Report("x", 0, 0, 1, 1, 0.0, 1.0).passed
    assert not Report("x", 0, 0, 1, 1, 0.0, 1.0, 1.2, 1.0, 1.1).passed


def test_scores_of_ids_that_nobody_would_see_are_not_compared() -> None:
    assert difference(Step(1, {1: -0.1, 2: -20.0}), Step(1, {1: -0.1, 2: -30.0})) == 0
    assert difference(Step(1, {1: -0.1, 2: -8.0}), Step(1, {1: -0.1, 3: -30.0})) == 0
    assert margin(CLEAR) == pytest.approx(2.9)


def test_texts_are_what_stands_between_marks(tokenizer: BPETokenizer) -> None:
    mark = tokenizer.specials["<|endoftext|>"]
    ids = np.array([mark, *tokenizer.encode("the cat"), mark, mark, *tokenizer.encode("a dog")], dtype=np.uint32)
    assert texts(ids, tokenizer) == ["the cat", "a dog"]
    assert texts(ids, tokenizer, limit=1) == ["the cat"]


def test_prompts_come_from_all_over_and_leave_room() -> None:
    found = prompts(np.arange(1000, dtype=np.uint32), 64)
    assert len(found) == 8
    assert all(len(prompt) == 32 for prompt in found)
    assert (found[0][0], found[-1][-1]) == (0, 999)
