"""Files of multiple choice: what they may hold, what is said of one that is wrong, and how choices are weighed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kiara_cli.core.eval import questions as module
from kiara_cli.core.eval.choices import Likelihood
from kiara_cli.core.eval.questions import Question, answer, joined, read_questions
from kiara_cli.errors import KiaraError

GOOD = {"context": "Water is", "choices": ["wet", "dry"], "answer": 0}


def write(*lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    Path("q.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return Path("q.jsonl")


def test_a_question_may_be_written_in_several_ways() -> None:
    found = read_questions(write(GOOD, "", {"question": "Fire is", "choices": ["cold", "hot"], "answer": "hot"}))
    assert found == [Question("Water is", ("wet", "dry"), 0), Question("Fire is", ("cold", "hot"), 1)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"choices": ["a", "b"], "answer": 0}, "has no 'context'"),
        ({**GOOD, "choices": None}, "has no 'choices'"),
        ({"context": "x", "choices": ["a", "b"]}, "has no 'answer'"),
        ({**GOOD, "answer": 2}, "the answer 2 is none of its choices; give a number from 0 to 1"),
        ({**GOOD, "answer": -1}, "the answer -1 is none"),
        ({**GOOD, "answer": True}, "the answer true is none"),
        ({**GOOD, "answer": "moist"}, 'the answer "moist" is none'),
        ({**GOOD, "choices": ["wet"]}, "'choices' is no list of two or more texts"),
        ({**GOOD, "choices": ["wet", 3]}, "'choices' is no list"),
        ({**GOOD, "choices": ["wet", " "]}, "choice 1 is empty"),
        ({**GOOD, "context": 5}, "'context' is no text"),
        ("[1, 2]", "has no 'context'"),
        ("{not json", "is no JSON"),
    ],
)
def test_a_wrong_question_is_named_by_its_line(line: object, reason: str) -> None:
    with pytest.raises(KiaraError) as error:
        read_questions(write(GOOD, "", line))
    assert "q.jsonl, line 3" in str(error.value)
    assert reason in str(error.value)


def test_a_file_without_a_question_or_that_is_none_is_refused() -> None:
    with pytest.raises(KiaraError, match="holds no question"):
        read_questions(write(""))
    with pytest.raises(KiaraError, match=r"cannot read the task gone\.jsonl: No such file"):
        read_questions(Path("gone.jsonl"))
    Path("raw.jsonl").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(KiaraError, match="no text in UTF-8"):
        read_questions(Path("raw.jsonl"))


def test_a_space_comes_between_context_and_choice_where_neither_brings_one() -> None:
    assert joined("Water is", "wet") == ("Water is", " wet")
    for context, choice in (("Water is ", "wet"), ("Water is", " wet"), ("Water is\n", "wet"), ("", "wet")):
        assert joined(context, choice) == (context, choice)


def test_choices_are_weighed_as_a_whole_by_bytes_and_by_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {  # of the choices in order: log-likelihood and tokens
        0: (-4.0, 2), 1: (-6.0, 6),  # as a whole the first one, by bytes and by tokens the second one
        2: (-4.0, 1), 3: (-5.0, 2),  # by tokens the second one
    }  # fmt: skip

    def scored(*args: object) -> dict[int, Likelihood]:
        return {number: Likelihood(logprob, False, tokens) for number, (logprob, tokens) in scores.items()}

    monkeypatch.setattr(module, "log_likelihoods", scored)
    monkeypatch.setattr(module, "encode_pair", lambda *args: None)

    class Opened:
        tokenizer = model = runtime = None

        class config:
            class eval:
                batch_size = 1

    asked = [Question("x", ("ä", "long long"), 0), Question("y", ("four", "4444"), 1)]
    found = answer(Opened, "t", asked)  # type: ignore[arg-type]
    assert (found.accuracy, found.accuracy_per_byte, found.accuracy_per_token) == (0.5, 0.0, 0.5)
    assert (found.questions, found.chance) == (2, 0.5)
    assert found.standard_error == pytest.approx(0.5)
