"""The corpus `tales`: the same every time, well written, and honest about what it holds back."""

import hashlib
import json
import re
from collections import Counter
from functools import cache
from random import Random

import pytest

from kiara_cli.core.data.tales import followups, requests
from kiara_cli.core.data.tales.corpus import (
    VERSION,
    conversations,
    held_out_requests,
    is_right,
    vocabulary,
    words_of,
)
from kiara_cli.core.data.tales.creatures import CREATURES
from kiara_cli.core.data.tales.stories import PLOTS, Cast, Story, held_out, tell
from kiara_cli.core.data.tales.things import THINGS
from kiara_cli.core.data.tales.troubles import PERILS, TROUBLES

VOWEL_EXCEPTIONS = ("one", "useful", "use")


@cache
def talks(size: int = 3_000_000) -> list[list[dict[str, str]]]:
    return [talk["messages"] for talk in conversations(seed=1, size=size)]


@cache
def all_stories() -> list[Story]:
    rng = Random(3)
    return [tell(rng, Cast()) for _ in range(3000)]


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r'(?<=[.!?])"? +', text) if part]


def test_the_same_seed_gives_the_same_conversations() -> None:
    assert list(conversations(7, 50_000)) == list(conversations(7, 50_000))
    assert list(conversations(7, 50_000)) != list(conversations(8, 50_000))


def test_the_text_has_not_changed_without_a_new_version() -> None:
    text = json.dumps(list(conversations(seed=0, size=200_000)))
    assert (VERSION, hashlib.sha256(text.encode()).hexdigest()[:16]) == (5, "132a1f5a69bc9c4d")


def test_a_larger_size_extends_the_same_sequence() -> None:
    small, large = list(conversations(7, 50_000)), list(conversations(7, 90_000))
    assert large[: len(small)] == small
    assert sum(len(m["content"]) for talk in small for m in talk["messages"]) >= 50_000


def test_every_conversation_alternates_and_starts_with_the_user() -> None:
    for talk in talks():
        assert [m["role"] for m in talk] == ["user", "assistant"] * (len(talk) // 2)
        assert talk
        assert all(m["content"].strip() == m["content"] != "" for m in talk)


def test_the_text_is_plain_ascii_without_double_spaces_or_open_slots() -> None:
    for talk in talks():
        for message in talk:
            text = message["content"]
            assert text.isascii()
            assert not re.search(r"  |[{}\n]| [,.!?]|\.\.|,,|\?\.|!\.", text), text


def test_a_and_an_agree_with_the_word_that_follows() -> None:
    for talk in talks():
        for message in talk:
            for found, word in re.findall(r"\b(an?) (\w+)", message["content"], re.IGNORECASE):
                vowel = word == "hour" or (word[0].lower() in "aeiou" and word not in VOWEL_EXCEPTIONS)
                assert (found.lower() == "an") == vowel, f"{found} {word}"


def test_every_sentence_of_a_story_starts_with_a_capital_and_ends_properly() -> None:
    for story in all_stories():
        assert story.text.endswith((".", "!", '."', '!"', '?"'))
        assert '"' in story.text
        assert story.text.count('"') % 2 == 0, story.text
        assert not re.search(r"[.!?] [a-z]", story.text), story.text


def test_no_story_says_a_sentence_twice() -> None:
    for story in all_stories():
        parts = sentences(story.text)
        assert len(parts) == len(set(parts)), story.text


def test_a_story_names_what_was_asked_for_and_the_creature_early() -> None:
    for story in all_stories():
        assert re.search(rf"\b{story.thing.name}\b", story.text), story.text
        assert re.search(rf"\b{story.hero.name}\b", " ".join(sentences(story.text)[:2])), story.text


def test_a_story_keeps_to_the_friend_name_and_place_of_the_request() -> None:
    rng = Random(5)
    for friend in CREATURES:
        story = tell(rng, Cast(friend=friend, name="Pip", place="near the lighthouse"))
        assert story.friend is friend
        for wanted in (f"the {friend.name}", "Pip", "ear the lighthouse"):
            assert wanted in story.text


def test_stories_are_neither_short_nor_long() -> None:
    lengths = [len(story.text.split()) for story in all_stories()]
    assert min(lengths) >= 55
    assert max(lengths) <= 160
    assert 85 <= sum(lengths) / len(lengths) <= 118


def test_no_held_out_pair_is_ever_told_in_training() -> None:
    reserved = {(c.name, t.name) for c in CREATURES for t in THINGS if held_out(c, t)}
    assert 0.08 <= len(reserved) / (len(CREATURES) * len(THINGS)) <= 0.12
    assert all(not held_out(story.hero, story.thing) for story in all_stories())
    asked = re.compile(r"an? ([a-z]+) and an? ([a-z]+)")
    for talk in talks():
        for message in talk:
            for first, second in asked.findall(message["content"].lower()):
                assert (first, second) not in reserved
                assert (second, first) not in reserved


def test_no_held_out_phrasing_is_ever_used_in_training() -> None:
    openings = tuple(phrase.split("{")[0] for phrase in requests.RESERVED)
    for talk in talks():
        for message in talk:
            assert message["role"] == "assistant" or not message["content"].startswith(openings)


def test_every_creature_thing_and_plot_is_met_often() -> None:
    stories = all_stories()
    drawn = Counter([name for s in stories for name in (s.hero.name, s.thing.name, s.plot.name)])
    for name in [row.name for rows in (CREATURES, THINGS, PLOTS) for row in rows]:
        assert drawn[name] >= 25, name


def test_every_thing_has_a_trouble_for_every_creature() -> None:
    for thing in THINGS:
        assert thing.kind in PERILS
        for creature in CREATURES:
            assert any(t.not_for.isdisjoint(creature.tags.split()) for t in TROUBLES[thing.kind])


def test_names_are_unique_and_there_are_enough_of_them() -> None:
    assert len({c.name for c in CREATURES}) == len(CREATURES) >= 40
    assert len({t.name for t in THINGS}) == len(THINGS) >= 40
    assert len(PLOTS) >= 8


@pytest.mark.parametrize("seed", [1, 99])
def test_the_vocabulary_holds_every_word_that_is_written(seed: int) -> None:
    written = set()
    for talk in conversations(seed, 1_500_000):
        for message in talk["messages"]:
            written.update(words_of(message["content"]))
    assert written <= vocabulary(), sorted(written - vocabulary())[:20]


def test_six_megabytes_hold_at_least_fifteen_hundred_words() -> None:
    written: set[str] = set()
    for talk in talks(6_000_000):
        for message in talk:
            written.update(words_of(message["content"]))
    assert len(written) >= 1500


def test_the_answer_to_a_fact_counts_as_right_and_the_missing_one_does_not() -> None:
    rng = Random(11)
    for story in all_stories():
        answered = followups.fact(rng, story)
        expect = {"any_of": list(answered.any_of), "none_of": list(answered.none_of)}
        assert answered.any_of
        assert is_right(answered.answer, expect), answered
        assert not is_right(followups.NOT_SAID, expect), answered


def test_the_key_phrase_of_a_copied_answer_stands_in_the_story() -> None:
    rng = Random(12)
    copied = ("What was the prize", "Where did", "What did they hear", "Who had", "What colour")
    for story in all_stories():
        answered = followups.fact(rng, story)
        if answered.question.startswith(copied) and story.plot.name != "quarrel":
            assert any(phrase in story.text.lower() for phrase in answered.any_of), (answered, story.text)


def test_the_shorter_version_keeps_the_hero_and_the_thing() -> None:
    for story in all_stories():
        short = story.plot.short.format_map(story.slots)
        assert story.slots["H"] in short or story.slots["HH"] in short
        assert story.thing.name in short
        assert len(sentences(short)) in (2, 3), short


def test_another_ending_is_another_one() -> None:
    rng = Random(13)
    for story in all_stories():
        answered = followups.retelling(rng, story)
        if "ending" in answered.question and "What" not in answered.question:
            assert answered.answer not in story.text


def test_what_a_story_does_not_say_is_not_in_it() -> None:
    rng = Random(14)
    for story in all_stories():
        question = followups.unsaid(rng, story).question
        assert not (story.colour and question.startswith(("What colour was the", "Which colour")))


def test_held_out_requests_are_new_in_pair_and_phrasing() -> None:
    drawn = held_out_requests(400, seed=3)
    assert drawn == held_out_requests(400, seed=3)
    pairs = {(c.name, t.name) for c in CREATURES for t in THINGS if held_out(c, t)}
    assert {item.kind for item in drawn} == {"story", "followup", "unknown", "greeting", "count"}
    for item in drawn:
        assert item.messages[-1]["role"] == "user"
        if item.kind == "story":
            assert tuple(item.expect["names"]) in pairs
        else:
            assert item.expect["any_of"]


def test_a_reply_is_judged_by_whole_words() -> None:
    assert is_right("Otto opened it.", {"any_of": ["otto"], "none_of": ["ned"]})
    assert not is_right("Otto opened it.", {"any_of": ["pen"]})
    assert is_right("A fox had a lantern.", {"names": ["fox", "lantern"]})
    assert not is_right("A fox had a lamp.", {"names": ["fox", "lantern"]})
