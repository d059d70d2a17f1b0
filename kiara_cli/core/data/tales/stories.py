"""From a cast to a story.

Goes in: a random generator and whoever was asked for. Comes out: a `Story`, which is its text together
with the facts from which `followups` answers. The same generator state gives the same story on every
machine: only `random()` is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from kiara_cli.core.data.tales import plots_in_brief, plots_of_giving, plots_of_need, plots_of_things
from kiara_cli.core.data.tales.creatures import CREATURES, Creature
from kiara_cli.core.data.tales.plot import OPENINGS, Plot
from kiara_cli.core.data.tales.things import THINGS, Thing
from kiara_cli.core.data.tales.troubles import PERILS, TROUBLES
from kiara_cli.core.data.tales.words import (
    COLOURS,
    GOODS,
    HE_NAMES,
    PLACES,
    PRIZES,
    RIVALS,
    SEARCHES,
    SHE_NAMES,
    SIZES,
    SPOTS,
    TIMES,
    TREATS,
)

PLOTS: tuple[Plot, ...] = plots_of_need.PLOTS + plots_of_things.PLOTS + plots_of_giving.PLOTS
COLOURED_SHARE = 0.5  # a guess: enough for "The story does not say" to be learned for colours
OPTIONAL_SHARE = 0.1  # keeps a story near a hundred words
# The plots that a cake comes through; in the others it would be rained on, borrowed or given back.
_EDIBLE = ("wish", "promise", "trade", "rescue", "contest", "mistake", "present", "visit", "swap")
_INDEX = {creature.name: i for i, creature in enumerate(CREATURES)}
_THING_INDEX = {thing.name: i for i, thing in enumerate(THINGS)}
_HE_NAMES = frozenset(HE_NAMES)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Story:
    """A finished story and all that was settled on the way; `slots` fill the templates of its plot."""

    text: str
    plot: Plot
    hero: Creature
    thing: Thing
    friend: Creature
    colour: str  # "" where the story does not say
    ending: int  # index into plot.endings
    slots: dict[str, str]


@dataclass(frozen=True, slots=True)
class Cast:
    """Who and what is asked for; an empty field is left to chance."""

    hero: Creature | None = None
    thing: Thing | None = None
    friend: Creature | None = None
    name: str = ""
    place: str = ""
    brief: bool = False  # a story of three or four sentences


def pick(rng: Random, choices: Sequence[_T]) -> _T:
    """Draw one of the choices."""
    return choices[int(rng.random() * len(choices))]


def held_out(creature: Creature, thing: Thing) -> bool:
    """Say whether this pair is kept out of the training conversations, as one in ten is."""
    return (3 * _INDEX[creature.name] + 7 * _THING_INDEX[thing.name]) % 10 == 4


def article(noun: str) -> str:
    """Put a or an before a noun."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def cap(text: str) -> str:
    """Begin a text with a capital letter."""
    return text[0].upper() + text[1:]


def draw_pair(rng: Random, cast: Cast, reserved: bool = False) -> tuple[Creature, Thing]:
    """Draw hero and thing, from the training pairs or from the reserved ones."""
    while True:
        hero = cast.hero or pick(rng, CREATURES)
        thing = cast.thing or pick(rng, THINGS)
        if held_out(hero, thing) == reserved:
            return hero, thing


def _draw_friend(rng: Random, hero: Creature, barred: frozenset[str]) -> Creature:
    while True:
        friend = pick(rng, CREATURES)
        if friend is not hero and barred.isdisjoint(friend.tags.split()):
            return friend


def _draw_plot(rng: Random, thing: Thing, cast: Cast) -> Plot:
    friend = cast.friend
    while True:
        plot = pick(rng, plots_in_brief.PLOTS if cast.brief else PLOTS)
        safe = friend is None or PERILS[thing.kind].not_for.isdisjoint(friend.tags.split())
        eaten = thing.kind == "share" and plot.name not in _EDIBLE
        if not eaten and (plot.needs != "peril" or safe):
            return plot


def _hero_slots(rng: Random, hero: Creature, name: str) -> dict[str, str]:
    name = name or pick(rng, HE_NAMES if rng.random() < 0.5 else SHE_NAMES)
    he, him, his = ("he", "him", "his") if name in _HE_NAMES else ("she", "her", "her")
    described = article(f"{pick(rng, hero.traits if rng.random() < 0.7 else SIZES)} {hero.name}")
    return {
        "H": name, "N": f"{name} the {hero.name}", "h": hero.name,
        "a_h": described, "A_h": cap(described), "A_hc": cap(article(hero.name)),
        "he": he, "him": him, "his": his, "He": cap(he), "His": cap(his),
        "says": hero.says, "hero": name.lower(), "skill": hero.skill.format(his=his, him=him),
    }  # fmt: skip


def _friend_slots(rng: Random, friend: Creature, hero_name: str) -> dict[str, str]:
    male = rng.random() < 0.5
    name = hero_name
    while name == hero_name:
        name = pick(rng, HE_NAMES if male else SHE_NAMES)
    he, him, his = ("he", "him", "his") if male else ("she", "her", "her")
    return {
        "F": name, "FF": f"{name} the {friend.name}", "f": friend.name, "friend": name.lower(),
        "fhe": he, "fhim": him, "fhis": his, "Fhe": cap(he), "Fhis": cap(his),
    }  # fmt: skip


def _thing_slots(thing: Thing, colour: str) -> dict[str, str]:
    return {
        "T": thing.name, "a_T": article(f"{colour} {thing.name}" if colour else thing.name),
        "a_T0": article(thing.name), "use": thing.use, "look": thing.look, "act": thing.act,
        "sound": thing.sound, "made": thing.made, "harm": thing.harm, "repair": thing.repair,
    }  # fmt: skip


def _chance_slots(rng: Random, place: str) -> dict[str, str]:
    place = place or pick(rng, PLACES)
    time = pick(rng, TIMES)
    return {
        "place": place, "time": time, "Time": cap(time), "treat": pick(rng, TREATS),
        "spot": pick(rng, SPOTS), "goods": pick(rng, GOODS), "prize": pick(rng, PRIZES),
        "search": pick(rng, SEARCHES), "rival": pick(rng, RIVALS),
    }  # fmt: skip


def _trouble_slots(rng: Random, plot: Plot, hero: Creature, thing: Thing, slots: dict[str, str]) -> None:
    if plot.needs == "trouble":
        fit = [t for t in TROUBLES[thing.kind] if t.not_for.isdisjoint(hero.tags.split())]
        trouble = pick(rng, fit)
        for key in ("want", "trouble", "result", "done"):
            slots[key] = getattr(trouble, key).format_map(slots)
    elif plot.needs == "peril":
        peril = PERILS[thing.kind]
        slots["peril"] = peril.peril.format_map(slots)
        slots["result"] = peril.result.format_map(slots)


def _line(rng: Random, beat: tuple[str, ...]) -> str:
    if beat[0]:
        return pick(rng, beat)
    return pick(rng, beat[1:]) if rng.random() < OPTIONAL_SHARE else ""


def tell(rng: Random, cast: Cast, reserved: bool = False) -> Story:
    """Tell a story with the cast that was asked for."""
    while True:
        story = _tell(rng, cast, reserved)
        met = cast.friend is None or story.slots["FF"] in story.text  # not every plot brings the friend in
        if met and '"' in story.text:  # and somebody should speak
            return story


def _tell(rng: Random, cast: Cast, reserved: bool) -> Story:
    hero, thing = draw_pair(rng, cast, reserved)
    plot = _draw_plot(rng, thing, cast)
    barred = PERILS[thing.kind].not_for if plot.needs == "peril" else frozenset[str]()
    friend = cast.friend or _draw_friend(rng, hero, barred)
    colour = pick(rng, COLOURS) if thing.kind != "share" and rng.random() < COLOURED_SHARE else ""
    slots = _hero_slots(rng, hero, cast.name)
    slots |= _friend_slots(rng, friend, slots["H"])
    slots |= _thing_slots(thing, colour)
    slots |= _chance_slots(rng, cast.place)
    _trouble_slots(rng, plot, hero, thing, slots)
    ending = int(rng.random() * len(plot.endings))
    lines = [pick(rng, OPENINGS)]
    lines += [_line(rng, beat) for beat in plot.beats]
    lines.append(plot.endings[ending])
    text = " ".join([cap(line.format_map(slots)) for line in lines if line])
    return Story(text, plot, hero, thing, friend, colour, ending, slots)
