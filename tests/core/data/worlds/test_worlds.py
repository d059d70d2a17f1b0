"""Small worlds: mistakes are named by line, conversations are the same everywhere, and the scorer is strict."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest

from kiara_cli.core.data.worlds.manners import MANNERS, TYPED, manner, typed
from kiara_cli.core.data.worlds.read import is_world, read_world
from kiara_cli.core.data.worlds.talks import conversation, conversations, held_out_talks, reserved
from kiara_cli.core.data.worlds.template import Slot, Template
from kiara_cli.core.data.worlds.world import World
from kiara_cli.errors import KiaraError

SHOP = Path(__file__).parents[4] / "docs/examples/shop.yaml"


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
    assert ["Hello!", "Hello! How can I help you?"] in [[one["content"] for one in talk[:2]] for talk in first]
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


def test_messages_are_typed_in_many_manners_and_what_a_slot_holds_stays_as_it_is(shop: World) -> None:
    wording, rows = Template("Please, where are the {g.many}?"), {"g": shop.tables["goods"][1]}
    found = {manner(style / 100): typed(style / 100, wording, rows) for style in range(100)}
    assert sorted(found) == sorted(MANNERS)
    assert found["as written"] == "Please, where are the candles?"
    assert found["no mark"] == "Please, where are the candles"
    assert found["lower case"] == "please, where are the candles?"
    assert found["lower case, no mark"] == "please, where are the candles"
    assert found["a word before"].endswith(", please, where are the candles?")
    assert found["short forms in lower case"] == "pls, where are the candles"
    assert typed(TYPED * 0.6, Template("What is {a g}?"), rows) == "What's a candle?"
    errors = {typed(number * 0.000813, wording, rows) for number in range(1, 41)}
    assert len(errors) > 3
    assert all("candles" in text and sorted(text) == sorted("please, where are the candles") for text in errors)
    drawn = [turn.manner for talk in held_out_talks(shop, 60, 1) for turn in talk]
    assert 0.4 < drawn.count("as written") / len(drawn) < 0.6
    learned = [message["content"] for talk in conversations(shop, 0, 60_000) for message in talk[::2]]
    assert 0.03 < sum(text[0].islower() for text in learned) / len(learned) < 0.25


def test_slots_take_articles_and_capitals() -> None:
    rows = {"g": {"name": "egg", "colour": "brown"}}
    assert Template("{A g} and {a g.colour} one: {G}, {g.colour}").fill(rows) == "An egg and a brown one: Egg, brown"
    assert Slot.parse("the g") is None


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
                assert rows["b"]["name"].lower() in turn.user.lower()
            if turn.exchange.name.endswith("end"):
                assert turn.reply in turn.had.reply
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


LIBRARY = """
world: library
tables: {people: [Ada, Ben, Clara, David, Emma, Frank, Grace, Hugo], places: [here, there, everywhere, nowhere],
         foods: [soup, jam, bread]}
rare: {people: [Zork, Blim]}
unseen: {people: [Wanda, Yuri, Xenia, Ivan]}
unfound: ["No passage says so."]
talks:
  lives:
    with: {n: people, m: people, p: places, q: places}
    passages: [["{N} lives {p}."], ["{M} lives {q}.", "{M} works {q}."]]
    user: ["Where does {n} live?"]
    reply: ["It says: {N} lives {p}."]
  likes:
    with: {n: people, f: foods}
    passages: [["{N} likes {f}."]]
    user: ["What does {n} like?"]
    reply: ["It says: {N} likes {f}."]
  met:
    with: {n: people, m: people}
    user: ["I met {n}."]
    reply: ["Did {n} meet {m}?"]
"""


def test_passages_stand_before_the_newest_question_and_hold_its_answer_or_are_said_not_to() -> None:
    world = written(LIBRARY)
    turns = [turn for seed in range(300) for turn in conversation(world, Random(seed), 3)]
    reading = [turn for turn in turns if turn.passages]
    assert {turn.known for turn in reading} == {True, False}
    for turn in reading:
        rows, asks = turn.had.rows, turn.exchange.name
        value = rows["p"] if asks == "lives" else rows["f"]
        fact = f"{rows['n']['name']} {asks} {value['name']}."
        assert turn.prompt.startswith("Passages:\n[1] ")
        assert turn.prompt.endswith(f"\n\n{turn.user}")
        assert (turn.reply == f"It says: {fact}") == turn.known == (fact in " ".join(turn.passages))
        assert turn.known or turn.reply == "No passage says so."
    assert any(
        text.count(".") > 2 for turn in reading for text in turn.passages
    )  # with sentences of others around it
    last = [conversation(world, Random(seed), 3) for seed in range(60)]
    assert not any(turn.passages for turns in last for turn in turns[:-1])  # an earlier turn is its question alone


def test_rare_rows_are_drawn_for_what_a_person_names_and_unseen_ones_for_the_scorer_alone() -> None:
    world = written(LIBRARY)
    learned = [turn for seed in range(300) for turn in conversation(world, Random(seed), 3) if not turn.passages]
    named, other = ({turn.had.rows[name]["name"] for turn in learned if name in turn.had.rows} for name in "nm")
    assert {"Zork", "Blim", "Ada"} <= {name.capitalize() for name in named}
    assert not {"Zork", "Blim"} & {name.capitalize() for name in other}
    scored = {turn.had.rows["n"]["name"].capitalize() for talk in held_out_talks(world, 200, 0, 3) for turn in talk}
    unseen = {"Wanda", "Yuri", "Xenia", "Ivan"}
    assert scored & unseen
    assert not {name.capitalize() for name in named | other} & unseen
