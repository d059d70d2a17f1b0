"""Small worlds: mistakes are named by line, conversations are the same everywhere, and the scorer is strict."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kiara_cli.core.data.worlds.judge import is_right
from kiara_cli.core.data.worlds.read import is_world, read_world
from kiara_cli.core.data.worlds.talks import Turn, conversations, held_out_talks, reserved
from kiara_cli.core.data.worlds.template import Slot, Template
from kiara_cli.core.data.worlds.world import World
from kiara_cli.errors import KiaraError

SHOP = Path(__file__).parents[4] / "docs/examples/shop.yaml"
STORY = """
world: harbour
tables:
  boats:
    - {name: Swallow, colour: red}
    - {name: Albatross, colour: green}
  cargo: [apples, salt, wool]
unsaid: ["The story does not say."]
talks:
  story:
    with: {b: boats, c: cargo}
    user: ["Tell me a story about the {b}."]
    tells:
      - ["The {b} carried {c}."]
      - ["She was {b.colour}.", "The sea was calm."]
    later:
      cargo:
        user: ["What did she carry?"]
        reply: ["She carried {c}."]
      colour:
        user: ["What colour was she?"]
        reply: ["She was {b.colour}."]
"""


def written(text: str) -> World:
    Path("world.yaml").write_text(text, encoding="utf-8")
    return read_world(Path("world.yaml"))


@pytest.fixture(scope="module")
def shop() -> World:
    return read_world(SHOP)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("costs {g.price}", "costs {g.prize}", "{g.prize}: no column 'prize' in 'goods'; did you mean 'price'?"),
        ("costs {g.price}", "costs {h.price}", "{h.price}: nothing is called 'h' here"),
        ("costs {g.price}", "costs {g.price", "a brace has no partner"),
        ("costs {g.price}", "costs {the g of}", "{the g of} is no slot"),
        ("with: {d: days}", "with: {d: dais}", "d is drawn from 'dais', which is no table; did you mean 'days'?"),
        ("    share: 2\n    with: {d: days}", "    share: 0\n    with: {d: days}", "share: 0 is not above 0"),
        ("place: last", "place: lost", "no place 'lost'; write first or last"),
        (
            "  thanks:\n",
            "  thanks:\n    repply: x\n",
            "no key 'repply' in the talk thanks; choose one of: reply",
        ),
        ("{name: egg, many: eggs, price: one coin, place: in the cold room}", "{name: egg}", "other columns"),
        ("name: candle", "name: apple", "'apple' is in 'goods' twice"),
        ("world: corner shop\n", "", "a world needs the key 'world'"),
        ("tables:", "tables: [", "cannot be read"),
    ],
)
def test_a_mistake_is_named_by_file_line_and_slot(old: str, new: str, said: str) -> None:
    text = SHOP.read_text(encoding="utf-8")
    assert text.count(old) >= 1
    with pytest.raises(KiaraError) as error:
        written(text.replace(old, new, 1))
    assert said in str(error.value)
    line = text[: text.index(old)].count("\n") + 1
    found = re.match(r"world.yaml, line (\d+)", str(error.value))
    assert found is not None
    assert line <= int(found[1]) <= line + new.count("\n") + 2 * ("cannot" in said)


def test_conversations_are_the_same_on_every_machine_and_hold_no_reserved_pair(shop: World) -> None:
    first, again, other = (list(conversations(shop, seed, 60_000)) for seed in (0, 0, 1))
    assert first == again != other
    assert sum(len(message["content"]) for talk in first for message in talk) >= 60_000
    assert [one["content"] for one in first[0][:2]] == ["Hello!", "Hello! How can I help you?"]
    kept = {turn.reply for talk in held_out_talks(shop, 40, 1) for turn in talk if turn.exchange.name == "order"}
    said = {message["content"] for talk in first for message in talk}
    assert kept
    assert not kept & said
    only_scored = {
        template.text for talk in shop.talks for template in talk.opening.held_out if "{" not in template.text
    }
    assert only_scored
    assert not only_scored & said


def test_what_was_told_is_asked_later_and_what_was_not_is_said_to_be_unknown(shop: World) -> None:
    turns = [turn for talk in held_out_talks(shop, 60, 3) for turn in talk]
    later = [turn for turn in turns if turn.exchange.name == "name, asked"]
    assert {turn.known for turn in later} == {True, False}
    for turn in later:
        name = turn.had.rows["p"]["name"]
        assert turn.reply == (f"Your name is {name}." if turn.known else "You have not told me your name.")


def test_every_reply_of_the_world_is_right_and_those_of_other_turns_are_wrong(shop: World) -> None:
    turns = [turn for talk in held_out_talks(shop, 30, 1) for turn in talk]
    assert all(is_right(shop, turn, turn.reply) for turn in turns)
    wrong = [(turn, other.reply) for turn, other in zip(turns, turns[7:], strict=False)
             if turn.exchange is not other.exchange or turn.had.rows != other.had.rows]  # fmt: skip
    accepted = [(turn.user, reply) for turn, reply in wrong if is_right(shop, turn, reply) and reply != turn.reply]
    assert len(accepted) <= len(wrong) // 50, accepted


def test_the_larger_world_of_the_page_judges_its_own_replies_right() -> None:
    world = read_world(SHOP.with_name("talks.yaml"))
    for talk in held_out_talks(world, 4, seed=1):
        for turn in talk:
            assert is_right(world, turn, turn.reply, turn.had.reply), (turn.user, turn.reply)


def test_a_reply_that_hedges_between_two_answers_is_wrong(shop: World) -> None:
    turn = next(turn for talk in held_out_talks(shop, 30, 1) for turn in talk if turn.exchange.name == "price")
    price = turn.had.rows["g"]["price"]
    other = "nine coins" if price != "nine coins" else "one coin"
    assert is_right(shop, turn, f"It is {price}.")
    assert not is_right(shop, turn, f"It is {price} or {other}.")
    assert not is_right(shop, turn, f"It is {other}.")


def test_questions_about_a_story_are_judged_by_what_the_model_told() -> None:
    world = written(STORY)
    (talk,) = world.talks
    turns = [turn for told in held_out_talks(world, 30, 0, turns=4) for turn in told]
    opening = next(turn for turn in turns if turn.exchange is talk.opening)
    boat = opening.had.rows["b"]["name"]
    other = "Swallow" if boat == "Albatross" else "Albatross"
    assert is_right(world, opening, f"The {boat} carried salt. The sea was calm.")
    assert not is_right(world, opening, f"The {other} carried salt. The sea was calm.")
    assert not is_right(world, opening, f"The {boat} carried salt.")
    cargo, colour = (Turn(Template("?"), 0.9, "", later, opening.had) for later in talk.later)
    told = f"The {boat} carried wool. The sea was calm."
    assert is_right(world, cargo, "She carried wool.", told)
    assert not is_right(world, cargo, "She carried salt.", told)
    assert not is_right(world, cargo, "The story does not say.", told)
    assert is_right(world, colour, "The story does not say.", told)
    assert not is_right(world, colour, "She was red.", told)
    assert is_right(world, colour, "She was red.", f"The {boat} carried wool. She was red.".replace(boat, "Swallow"))


def test_slots_take_articles_and_capitals_and_are_recognised() -> None:
    rows = {"g": {"name": "egg", "colour": "brown"}}
    assert Template("{A g} and {a g.colour} one: {G}, {g.colour}").fill(rows) == "An egg and a brown one: Egg, brown"
    assert Slot.parse("the g") is None
    cup = {"name": "cup", "colour": "red"}
    found = Template("{A g} here").recognise("there is an egg here", {"g": [rows["g"], cup]})
    assert found == {"g": [rows["g"]]}
    assert Template("{A g} here").recognise("nothing here", {"g": [rows["g"]]}) is None


HARBOUR = """
world: harbour
tables:
  boats: [{name: Swallow, kind: sail}, {name: Albatross, kind: steam}, {name: Gull, kind: sail}]
  troubles:
    - {name: calm, kind: sail, text: "the {b} had no wind"}
    - {name: coal, kind: steam, text: "the {b} had no coal"}
unsaid: ["The story does not say."]
talks:
  story:
    topic: story
    with: {b: boats, r: troubles by b.kind}
    user: ["Tell me about the {b}."]
    tells: [["There was trouble: {r.text}.", "Alas, {r.text}."], ["", "It rained."],
            ["In the end she sank.", "In the end she came home."]]
    later: &questions
      - trouble: {user: ["What was the trouble?", "What was the {b}'s trouble?"], reply: ["{R.text}."]}
      - end: {user: ["How did it end?"], reply: ["In the end she sank.", "In the end she came home."]}
  other story: {topic: story, with: {b: boats, r: troubles by b.kind}, user: ["More about the {b}."],
                tells: [["Sadly, {r.text}."], ["In the end she sank."]], later: *questions}
"""


def test_rows_are_joined_values_have_slots_and_older_stories_are_asked_about_by_name() -> None:
    world = written(HARBOUR)
    older = 0
    for talk in held_out_talks(world, 60, 0, turns=8):
        stories: list[str] = []
        for turn in talk:
            rows = turn.had.rows
            assert rows["r"]["kind"] == rows["b"]["kind"]
            if turn.exchange is turn.had.talk.opening:
                stories.append(turn.reply)
                assert rows["b"]["name"] in turn.reply
                assert "{" not in turn.reply
            elif turn.had.reply != stories[-1]:
                older += 1
                assert rows["b"]["name"] in turn.user
            if turn.exchange.name.endswith("end"):
                assert turn.reply in turn.had.reply
            assert is_right(world, turn, turn.reply, turn.had.reply)
    assert older


def test_a_join_that_leads_nowhere_is_named() -> None:
    with pytest.raises(KiaraError, match=r"line 12: 'x.kind' is no column of a name before it"):
        written(HARBOUR.replace("troubles by b.kind", "troubles by x.kind", 1))
    with pytest.raises(KiaraError, match=r"a row of 'troubles' has \{c\}, which is nothing here"):
        written(HARBOUR.replace("the {b} had no wind", "the {c} had no wind"))


def test_reserved_pairs_are_about_one_in_ten(shop: World) -> None:
    pairs = [{"g": good, "n": number} for good in shop.tables["goods"] for number in shop.tables["numbers"]]
    assert 1 <= sum(reserved(pair) for pair in pairs) <= len(pairs) // 4
    assert reserved(pairs[0]) == reserved(dict(pairs[0]))


def test_other_yaml_is_no_world() -> None:
    Path("x.yaml").write_text("model:\n  n_layers: 2\n")
    assert not is_world(Path("x.yaml"))
    assert not is_world(Path("nothing.yaml"))
    assert is_world(SHOP)
