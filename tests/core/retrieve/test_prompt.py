"""What stands before a question: as many passages as fit, shortened to what is asked, and named as sources."""

from __future__ import annotations

from typing import Any

import pytest

from kiara_cli.core.retrieve.passage import Passage
from kiara_cli.core.retrieve.prompt import FOLLOW_UP_WORDS, Knowledge, Unsearchable, ground, searched
from kiara_cli.core.retrieve.search import LONGEST
from kiara_cli.errors import KiaraError

LIGHT = "The lamp is red.\nThe key of the tower lies under the third stone.\nDogs sleep all day."


def passage(text: str, file: str = "a.md") -> Passage:
    return Passage(text, file, ("Title", "Part"), 12, 30, 1.0, text[:8])


def words(most: int) -> Any:
    """Let a turn fit if it has at most so many words."""
    return lambda text: len(text.split()) <= most


def test_passages_stand_before_the_question_and_are_its_sources() -> None:
    grounded = ground("Where is it?", [passage("One.\nTwo."), passage("Three.", "b.md")], words(99))
    assert grounded.text == "Passages:\n[1] One. Two.\n[2] Three.\n\nWhere is it?"
    assert [source.line for source in grounded.sources] == [
        "[1] a.md › Title › Part, lines 12–30", "[2] b.md › Title › Part, lines 12–30",
    ]  # fmt: skip
    assert grounded.sources[0].record() | {"text": "One.\nTwo.", "read": "One. Two."} == grounded.sources[0].record()
    assert grounded.left_out == 0


def test_where_little_fits_the_best_passage_is_shortened_to_what_is_asked_and_the_rest_is_left_out() -> None:
    question = "Where does the tower key lie?"
    grounded = ground(question, [passage(LIGHT), passage("Something else.")], words(22))
    assert [source.text for source in grounded.sources] == [
        "The key of the tower lies under the third stone. Dogs sleep all day."
    ]
    assert grounded.left_out == 1
    assert grounded.text.endswith(f"\n\n{question}")


@pytest.mark.parametrize("most", range(0, 40, 3))
def test_the_question_is_never_pushed_out_and_a_turn_with_passages_fits(most: int) -> None:
    grounded = ground("Where is the key?", [passage(LIGHT), passage("word " * 40)], words(most))
    assert grounded.text.endswith("Where is the key?")
    assert len(grounded.text.split()) <= max(most, 4)


def test_a_long_sentence_is_cut_at_a_word_and_too_small_a_rest_of_it_is_left_out() -> None:
    long = passage(" ".join(f"word{number}" for number in range(100)))
    assert ground("Q?", [long], words(14)).sources[0].text == " ".join(f"word{number}" for number in range(11))
    assert ground("Q?", [long], words(8)).sources == ()
    assert len(ground("?", [passage("漢" * 500)], lambda text: len(text) < 120).sources[0].text) > 90  # no blanks


def test_an_empty_passage_and_no_passage_leave_the_bare_question() -> None:
    for found in ([], [passage(" \n ")]):
        grounded = ground("Q?", found, words(99))
        assert (grounded.text, grounded.sources) == ("Q?", ())


def test_a_short_question_is_searched_with_the_one_before_it_and_a_long_one_alone() -> None:
    former, long = "How is a hook named?", " ".join(["word"] * (FOLLOW_UP_WORDS + 1))
    assert searched("And why?", former) == f"{former}\nAnd why?"
    assert searched(long, former) == long
    assert searched("And why?", None) == "And why?"
    assert len(searched("x" * 100_000, None)) == LONGEST


def test_a_search_that_fails_says_so_whatever_the_index_says() -> None:
    class Broken:
        def search(self, question: str, k: int) -> list[Passage]:
            raise KiaraError("http://localhost:1 does not answer", "start it")

    with pytest.raises(Unsearchable, match="does not answer; start it"):
        Knowledge("docs", Broken(), 4).search("Where?")  # type: ignore[arg-type]
