"""What the user tells Kiara and asks back later: the shortest talk in which an answer has to be looked up.

Goes in: a random generator. Comes out: exchanges, first those that tell, then those that ask. The answers use
the words of what was told. A small model learns to look back here first, where there is little to look at,
and finds its way in whole stories afterwards.
"""

from dataclasses import dataclass
from random import Random

from kiara_cli.core.data.tales.creatures import CREATURES
from kiara_cli.core.data.tales.stories import article, cap, pick
from kiara_cli.core.data.tales.things import THINGS
from kiara_cli.core.data.tales.words import COLOURS, HE_NAMES, PLACES, SHE_NAMES, SPOTS, TREATS

Exchange = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Fact:
    """Something told, with the questions it answers; slots as in `_slots`."""

    told: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str


MINE: tuple[Fact, ...] = (
    Fact(("My name is {H}.", "I am called {H}.", "I am {H}."), ("What is my name?", "Who am I?", "What am I called?"),
         "Your name is {H}."),
    Fact(("I live {place}.",), ("Where do I live?", "Where is my home?"), "You live {place}."),
    Fact(("I like {treat}.",), ("What do I like?", "What do I like to eat?"), "You like {treat}."),
    Fact(("I have {a_cT}.",), ("What do I have?",), "You have {a_cT}."),
    Fact(("My {h} is called {H}.", "I have {a_h} called {H}."), ("What is my {h} called?", "What is my {h}'s name?"),
         "Your {h} is called {H}."),
    Fact(("My {T} is {colour}.",), ("What colour is my {T}?", "Which colour is my {T}?"), "Your {T} is {colour}."),
    Fact(("I put the {T} {spot}.",), ("Where did I put the {T}?", "Where is the {T}?"), "You put the {T} {spot}."),
)  # fmt: skip
THEIRS: tuple[Fact, ...] = (
    Fact(("{H} lives {place}.", "{H} the {h} lives {place}."), ("Where does {H} live?", "Where is the home of {H}?"),
         "You said that {H} lives {place}."),
    Fact(("{H} is {a_h}.",), ("What is {H}?", "What kind of animal is {H}?", "What animal is {H}?"),
         "You said that {H} is {a_h}."),
    Fact(("{H} has {a_cT}.",), ("What does {H} have?",), "You said that {H} has {a_cT}."),
    Fact(("{H} has {a_cT}.", "{H} the {h} has {a_T}."), ("Who has the {T}?", "Whose {T} is it?"),
         "You said that {H} has the {T}."),
    Fact(("{H} likes {treat}.",), ("What does {H} like?", "What does {H} like to eat?"),
         "You said that {H} likes {treat}."),
    Fact(("{H} likes {treat}.",), ("Who likes {treat}?",), "You said that {H} likes {treat}."),
    Fact(("{H} has {a_cT}.", "The {T} of {H} is {colour}."), ("What colour is the {T}?", "Which colour is the {T}?"),
         "You said that the {T} is {colour}."),
    Fact(("The {T} is {spot}.", "{H} put the {T} {spot}."), ("Where is the {T}?", "Where was the {T}?"),
         "You said that the {T} is {spot}."),
    Fact(("The {h} is called {H}.", "{H} the {h} is here."), ("What is the {h} called?", "What is the {h}'s name?"),
         "You said that the {h} is called {H}."),
)  # fmt: skip
NOTED: tuple[str, ...] = (
    "I will remember that.", "Good to know.", "Thank you for telling me.", "I have noted it.", "How nice!",
)  # fmt: skip
# No message opens with a name: at the start of a text it would be other tokens than after a space.
HEAR: tuple[str, ...] = ("Listen.", "You know what?", "Please remember this.", "Let me tell you something.")
NOT_TOLD = "You have not told me that."


def told_and_asked(rng: Random) -> list[Exchange]:
    """Tell one to four facts, then ask for some of them, now and then for one that was never told."""
    every = _slots(rng, pick(rng, (2, 3, 4, 4, 5)))
    mine = iter(sorted(MINE, key=lambda _: rng.random()))  # a person has one name and one home
    facts = [next(mine) if rng.random() < 0.3 else pick(rng, THEIRS) for _ in every]
    *known, missing = [_fill(rng, fact, slots) for fact, slots in zip(facts, every, strict=True)]
    exchanges: list[Exchange] = []
    rest = [cap(told) for told, _, _ in known]
    while rest:
        now = 1 + int(rng.random() * len(rest))
        exchanges.append((f"{pick(rng, HEAR)} {' '.join(rest[:now])}", pick(rng, NOTED)))
        rest = rest[now:]
    asks = [(question, answer) for _, question, answer in sorted(known, key=lambda _: rng.random())]
    if rng.random() < 0.25:
        asks.append((missing[1], NOT_TOLD))
    told = " ".join(message for message, _ in exchanges)
    return exchanges + [ask for index, ask in enumerate(asks) if ask[0] not in told and ask not in asks[:index]]


def _fill(rng: Random, fact: Fact, slots: dict[str, str]) -> tuple[str, str, str]:
    """Return what is told, a question that it answers, and the answer."""
    told, question = pick(rng, fact.told), pick(rng, fact.questions)
    return told.format_map(slots), question.format_map(slots), cap(fact.answer.format_map(slots))


def _slots(rng: Random, count: int) -> list[dict[str, str]]:
    """Draw what to tell about for `count` facts; no two share a name, creature, thing, place or treat."""
    kinds, things = [creature.name for creature in CREATURES], [thing.name for thing in THINGS]
    drawn = (
        sorted(choices, key=lambda _: rng.random())[:count]
        for choices in (HE_NAMES + SHE_NAMES, kinds, things, PLACES, TREATS, SPOTS)
    )
    rows = []
    for name, creature, thing, place, treat, spot in zip(*drawn, strict=True):
        colour = pick(rng, COLOURS)
        rows.append({
            "H": name, "h": creature, "a_h": article(creature), "T": thing, "a_T": article(thing), "colour": colour,
            "a_cT": article(f"{colour} {thing}"), "place": place, "treat": treat, "spot": spot,
        })  # fmt: skip
    return rows
