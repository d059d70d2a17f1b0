"""The judge of a small world is strict: each way to seem right without being it is a fault, and named."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from kiara_cli.core.data.worlds.judge import Judge
from kiara_cli.core.data.worlds.read import packaged, read_world
from kiara_cli.core.data.worlds.talks import Course, Turn, held_out_talks, says
from kiara_cli.core.data.worlds.world import World

EXAMPLES = Path(__file__).parents[4] / "docs/examples"
HARBOUR = """
world: harbour
tables:
  boats: [{name: Swallow, colour: red}, {name: Albatross, colour: green}, {name: Heron, colour: blue}]
  cargo: [apples, salt, wool, car]
  sailors: [Ada, Ben, Clara]
  sums: [{name: "1+2", a: one, b: two, sum: three}, {name: "2+2", a: two, b: two, sum: four}]
unsaid: ["The story does not say."]
talks:
  story:
    topic: story
    with: &cast {b: boats, c: cargo, s: sailors}
    user: &ask ["Tell me a story about the {b}.", "Tell me a story.", "Another story, please."]
    tells: [["The {b} carried {c}."], ["", "She was {b.colour}."], ["{S} was glad about the {c}.", "{S} slept."]]
    later: &questions
      cargo: {user: ["What did she carry?"], reply: ["She carried {c}."]}
      colour: {user: ["What colour was she?"], reply: ["She was {b.colour}."]}
      who: {user: ["Who was in the story?"], reply: ["It is about {s}."], right: ["{s}"]}
      yes: {user: ["Did {s} have a boat?"], reply: ["Yes, {s} had a boat."], right: ["yes"], wrong: ["no"]}
  storm: {topic: story, with: *cast, user: *ask, tells: [["{S} saw a storm."], ["The {b} sank with the {c}."]],
          later: *questions}
  hello: {user: ["Hello!"], reply: ["Hello! I am glad.", "Good day!"], right: ["hello", "good day"]}
  name:
    with: {s: sailors}
    user: ["My name is {s}."]
    reply: ["Nice to meet you, {s}."]
    later: {asked: {user: ["What is my name?"], reply: ["Your name is {s}."], before: ["You have not told me."]}}
  plus: {with: {j: sums}, user: ["What is {j.a} plus {j.b}?"], reply: ["{J.a} plus {j.b} is {j.sum}."],
         right: ["is {j.sum}"]}
  unknown: {user: ["How far is the moon?"], reply: ["I don't know that. I know boats."], right: ["I don't know that"]}
"""


@pytest.fixture
def judge() -> Judge:
    Path("world.yaml").write_text(HARBOUR, encoding="utf-8")
    return Judge(read_world(Path("world.yaml")))


def turn_of(world: World, kind: str, known: bool = True, wording: str = "", **rows: int) -> Turn:
    """Draw talks until one asks in this way; `rows` are to stand for its names."""
    for seed in range(2000):
        course = Course(world, Random(seed), 6)
        for turn in (course.next() for _ in range(6)):
            tables = {name: draw.table for name, draw in turn.had.talk.names.items()}
            drawn = {name: world.tables[tables[name]].index(row) for name, row in turn.had.rows.items()
                     if row in world.tables[tables[name]]}  # fmt: skip
            if (
                turn.exchange.name == kind
                and turn.known == known
                and rows.items() <= drawn.items()
                and (wording in turn.wording.text)
            ):
                return turn
    raise AssertionError(kind)


def after_story(judge: Judge, kind: str, story: str) -> Turn:
    """Ask about a story that was told in the place of the one that was drawn."""
    for seed in range(4000):
        course = Course(judge.world, Random(seed), 6)
        opening = course.next()
        if not opening.tells or "Another" not in opening.wording.text:
            continue
        judge.stories.correct(opening.had, judge.stories.read(opening, story), story)
        turn = course.next()
        if turn.exchange.name.endswith(f", {kind}") and turn.had is opening.had:
            return turn
    raise AssertionError(kind)


STORY = "The Swallow carried salt. Ben was glad about the salt."
FOOLED = {
    "a reply that names both answers": ("cargo", "She carried salt and wool.", "says 'wool', too"),
    "both answers, where a phrase is enough": ("who", "It is about Ben or Ada.", "says 'ada', too"),
    "both answers, one within a word of the question": ("cargo", "She carried salt, car.", "says 'car', too"),
    "another answer": ("cargo", "She carried wool.", "does not say 'salt'"),
    "an extra sentence that is false": ("cargo", "She carried salt. She was red.", "adds 'She was red.'"),
    "an extra sentence that contradicts": ("who", "It is about Ben. The story does not say.", "adds"),
    "an answer denied, though the story has it": ("cargo", "The story does not say.", "does not say 'salt'"),
    "the right value, denied": ("cargo", "She did not carry salt.", "says 'not'"),
    "yes and no": ("yes", "Yes, Ben had no boat.", "says 'no'"),
    "yes to another question": ("yes", "Yes, Ada had a boat.", "says 'ada', too"),
    "an answer to what the story does not say": ("colour", "She was red.", "The story does not say"),
    "the question again": ("cargo", "What did she carry?", "repeats"),
    "a word that there is not": ("cargo", "She carried salt zorbly.", "'zorbly' is no word"),
    "a word twice": ("cargo", "She carried salt salt.", "says 'salt' twice"),
    "nothing": ("cargo", "…", "says nothing"),
}


@pytest.mark.parametrize("trick", FOOLED)
def test_the_judge_is_not_fooled_about_a_story_by(judge: Judge, trick: str) -> None:
    kind, reply, fault = FOOLED[trick]
    turn = after_story(judge, kind, STORY)
    assert judge.fault(turn, turn.reply) is None
    assert fault in str(judge.fault(turn, reply))


@pytest.mark.parametrize(
    ("kind", "rows", "reply", "fault"),
    [
        ("plus", {"j": 0}, "One plus two is three, or four.", "says 'four', too"),
        ("plus", {"j": 1}, "Two plus two is four, or three.", "says 'three', too"),
        ("plus", {"j": 0}, "It is three.", None),
        ("name", {"s": 0}, "My name is Ada.", "repeats"),
        ("name", {"s": 0}, "Nice to meet you, Ben.", "does not say"),
        ("name", {"s": 0}, "I don't know that, Ada.", "does not say 'Nice to meet you, Ada'"),
        ("name, asked", {"s": 0}, "Your name is Ada. Your name is Ben.", "says 'ben', too"),
        ("hello", {}, "Hello! I know boats.", "adds 'I know boats.'"),
        ("hello", {}, "Good day! I am glad.", None),
        ("unknown", {}, "I don't know that. The moon is far.", "adds 'The moon is far.'"),
        ("unknown", {}, "I don't know that.", None),
    ],
)
def test_nor_about_facts_sums_and_small_talk(
    judge: Judge, kind: str, rows: dict[str, int], reply: str, fault: str | None
) -> None:
    found = judge.fault(turn_of(judge.world, kind, **rows), reply)
    assert found is None if fault is None else fault in str(found)


def test_what_was_not_told_must_be_said_to_be_unknown_and_nothing_else(judge: Judge) -> None:
    turn = turn_of(judge.world, "name, asked", known=False)
    assert judge.fault(turn, "You have not told me.") is None
    assert "adds" in str(judge.fault(turn, "You have not told me. Your name is Ada."))
    assert judge.fault(turn, "Your name is Ada.") is not None


def test_a_story_is_right_if_it_is_whole_of_one_piece_about_what_was_asked_and_new(judge: Judge) -> None:
    turn = turn_of(judge.world, "story", wording="{b}", b=0)

    def fault(story: str, *earlier: str) -> str | None:
        return judge.fault(turn, story, judge.stories.read(turn, story), earlier)

    assert fault("The Swallow carried wool. Ben slept.") is None
    assert fault("The Swallow carried wool. She was red. Ben was glad about the wool.") is None
    assert fault("Ada saw a storm. The Swallow sank with the salt.") is None  # another plot that was not refused
    for story in (
        "The Swallow carried wool.",  # without an end
        "The Swallow carried.",
        "The Swallow carried wool. She was green. Ben slept.",  # the colour of another boat
        "The Swallow carried wool. Ben was glad about the salt.",  # other goods halfway through
        "The Swallow carried wool. Ben slept. Ben slept.",
        "Ben slept. The Swallow carried wool.",
        "The Swallow carried wool. Ben slept. Hello!",
    ):
        assert "story" in str(fault(story)), story
    assert fault("The Swallow carried wool. Ada sang.") == "is no story of this world from 'Ada sang.' on"
    assert fault("The Swallow carried wool. Ben was glad about the salt.") == (
        "is no story of this world from 'Ben was glad about the salt.' on"
    )
    assert fault("The Swallow carried wool.") == "is no whole story, or contradicts itself"
    assert fault("The Heron carried wool. Ben slept.") == "is not about 'Swallow'"
    told = "The Swallow carried wool. Ben slept."
    assert fault(told, told) == "was told before"
    assert fault("The Swallow carried wool. She was red. Ben slept.", "Ada slept.", told) == "was told before"
    assert fault("The Swallow carried salt. Ben slept.", told) is None


def test_questions_are_about_what_the_model_told_and_about_no_part_that_cannot_be_read(judge: Judge) -> None:
    other = after_story(judge, "who", "Clara saw a storm. The Heron sank with the wool.")
    assert other.had.talk.name == "storm"
    assert other.reply == "It is about Clara."
    assert after_story(judge, "colour", STORY).reply == "The story does not say."
    garbled = "The Swallow carried salt. Ben was glad about."
    assert after_story(judge, "cargo", garbled).reply == "She carried salt."
    with pytest.raises(AssertionError):
        after_story(judge, "who", garbled)


def test_of_two_stories_the_earlier_is_asked_about_by_name_and_not_answered_by_the_newer(judge: Judge) -> None:
    for seed in range(3000):
        course = Course(judge.world, Random(seed), 3)
        first, second, turn = (course.next() for _ in range(3))
        if first.tells and second.tells and turn.had is first.had and turn.exchange.name.endswith("yes"):
            break
    else:
        raise AssertionError("nobody asks about the earlier story")
    assert first.had.rows["s"]["name"].lower() in turn.user.lower()
    if first.had.rows["s"] != second.had.rows["s"]:
        assert judge.fault(turn, f"Yes, {second.had.rows['s']['name']} had a boat.") is not None


def values(turn: Turn, reply: str) -> set[str]:
    """Return which of the values that were drawn for a turn a reply holds."""
    return {text for row in turn.had.rows.values() for text in row.values() if says(reply, text)}


@pytest.mark.parametrize("path", [EXAMPLES / "shop.yaml", packaged("tales")], ids=["shop", "tales"])
def test_every_reply_of_a_world_is_right_and_those_of_other_turns_are_wrong(path: Path) -> None:
    world = read_world(path)
    judge, turns = Judge(world), [turn for talk in held_out_talks(world, 12, 1) for turn in talk]
    for turn in turns:
        told = judge.stories.read(turn, turn.reply) if turn.tells else None
        assert judge.fault(turn, turn.reply, told) is None, (turn.user, turn.reply)
        assert told is None or told.names == turn.had.told
    questions = [turn for turn in turns if not turn.tells]
    others = [(turn, other.reply) for turn, other in zip(questions, questions[3:], strict=False)
              if other.reply not in {one.fill(turn.had.rows) for one in turn.answers}
              and not (other.had is turn.had and values(turn, turn.reply) <= values(turn, other.reply))]  # fmt: skip
    accepted = [(turn.user, reply) for turn, reply in others if judge.fault(turn, reply) is None]
    assert len(accepted) <= len(others) // 50, accepted  # "Your duck is Lily." is right for "Who is Lily?", too
