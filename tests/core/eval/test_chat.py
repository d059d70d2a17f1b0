"""The scorer passes the generator's own stories and fails what is wrong with a reply."""

from __future__ import annotations

import pytest

from kiara_cli.core.data.tales.corpus import HeldOut, held_out_requests, vocabulary
from kiara_cli.core.eval.chat import judge
from kiara_cli.core.generate.text import Completion


def completion(text: str, reason: str = "stop") -> Completion:
    return Completion(text, reason, 1, 1, 1.0, 1.0)  # type: ignore[arg-type]


REQUEST = HeldOut("story", [{"role": "user", "content": "…"}], {"names": ["fox", "lantern"]})


@pytest.mark.parametrize(
    ("text", "reason", "failed"),
    [
        ("A fox had a lantern. It was red.", "stop", set()),
        ("A fox had a rope. It was red.", "stop", {"names_both"}),
        ("A fox had a lantern. It was", "length", {"ends_properly"}),
        ("A fox had a lantern. A fox had a lantern.", "stop", {"repeats_nothing"}),
        ("A fox had a lantern. It was zorbly.", "stop", {"known_words"}),
        ("A foxglove had lanterns.", "stop", {"names_both", "known_words"}),
    ],
)
def test_each_fault_of_a_story_fails_its_own_test(text: str, reason: str, failed: set[str]) -> None:
    passed = judge(REQUEST, completion(text, reason), vocabulary())
    assert {name for name, ok in passed.items() if not ok} == failed


def test_followups_are_judged_by_what_the_story_said() -> None:
    requests = [one for one in held_out_requests(60, seed=9) if one.kind == "followup"]
    assert len(requests) > 10
    for request in requests:
        answer = request.expect["any_of"][0]
        assert judge(request, completion(answer), vocabulary())["followup_right"]
        assert not judge(request, completion("Perhaps."), vocabulary())["followup_right"]


def test_at_least_300_held_out_requests_can_be_drawn() -> None:
    assert len(held_out_requests(300, seed=1)) == 300
