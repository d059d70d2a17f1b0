"""What stands before a question: as many passages as fit, shortened to what is asked, and named as sources."""

from __future__ import annotations

from typing import Any

import pytest
from library import knowledge

from kiara_cli.core.retrieve.passage import Passage
from kiara_cli.core.retrieve.prompt import Knowledge, Unsearchable, ground
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


@pytest.mark.parametrize(
    ("question", "follows"),
    [("And why?", True), ("What does it return?", True), ("Tell me more.", True), ("Und warum?", True),
     ("What is a lamp?", False), ("Where does the tower key lie?", False)],
)  # fmt: skip
def test_a_question_that_refers_to_the_one_before_it_is_searched_with_it_too(question: str, follows: bool) -> None:
    known = knowledge("The key of the tower.", "What is why? It returns more lamps and keys.", "Tell dogs.")
    found = known.search(question, "Where is the key of the tower?")
    asked = known.index.asked  # type: ignore[attr-defined]
    assert asked == [question, f"Where is the key of the tower?\n{question}"][: 1 + follows]
    assert len({one.id for one in found}) == len(found) <= known.passages
    if follows:
        assert found[0].text == "The key of the tower."
    assert known.search(question, None) == known.index.search(question, 4)


def test_what_is_searched_for_is_bounded() -> None:
    known = knowledge("x")
    known.search("x" * 100_000, "y" * 100_000)
    assert len(known.index.asked[0]) == LONGEST  # type: ignore[attr-defined]


def test_a_search_that_fails_says_so_whatever_the_index_says() -> None:
    class Broken:
        def search(self, question: str, k: int) -> list[Passage]:
            raise KiaraError("http://localhost:1 does not answer", "start it")

    with pytest.raises(Unsearchable, match="does not answer; start it"):
        Knowledge("docs", Broken(), 4).search("Where?")  # type: ignore[arg-type]
