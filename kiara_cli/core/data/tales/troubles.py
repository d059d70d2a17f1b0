"""Troubles and dangers, by the kind of thing that helps against them.

Goes in: the two trouble tables. Comes out: `TROUBLES` and `PERILS`, which say for each kind of thing what
it can mend, so that the thing in a story is never there by accident.
"""

from dataclasses import dataclass

from kiara_cli.core.data.tales import troubles_by_hand, troubles_by_heart
from kiara_cli.core.data.tales.table import rows


@dataclass(frozen=True, slots=True)
class Trouble:
    """A wish of the hero, what stands in its way, and what the thing does about it."""

    want: str
    trouble: str
    result: str
    done: str
    not_for: frozenset[str]


@dataclass(frozen=True, slots=True)
class Peril:
    """A friend in danger and how the thing gets the friend out of it."""

    peril: str
    result: str
    not_for: frozenset[str]


# kind | danger | and so | not for friends who
_PERILS = """
light | {FF} had gone into the cave and could not find the way out | {F} walked straight towards the glow |
    night
brew | {FF} had fallen through thin ice and sat shivering on the bank | soon {F} had warm ears again |
    swims cold
wrap | {FF} had been soaked by a wave and sat shaking on the rocks | little by little {F} stopped shaking |
    swims cold
pull | {FF} had sunk into the marsh up to the belly | {F} came out with a noise like a cork | flies
carry | {FF} was too sore to walk and sat crying on the hill with the berries |
    {F} rode home on top of the berries | flies
water | a spark had landed on the straw roof of {FF} |
    the spark died with a hiss before {F} had even woken up | -
sound | {FF} was lost in the fog and walking towards the cliff | {F} stopped, listened and turned around |
    flies
music | {FF} was lost in the tall corn and too frightened to call | {F} followed the tune out, row by row |
    flies
way | {FF} had sent a note that said: Lost at the two birches, please come |
    there were the two birches, with {F} between them | flies
signal | {FF} was adrift on a log in the lake | a fisherman saw it and rowed over to {F} | flies swims
see | {FF} had not come back from the hills | there was {F}, waving a sock from the third ledge | flies
shelter | {FF} was caught on the bare hill in a shower of hail | {F} crept in under it just in time | -
dig | {FF} was shut in behind a fall of earth | at last a nose poked through, and it belonged to {F} | digs
sweep | {FF} had spilled a thousand tacks and dared not move a foot |
    a clean path opened all the way to {F} | flies
reach | {FF} was stuck on the garden wall and did not dare to look down |
    {F} came down, one step at a time | flies climbs
float | {FF} was stuck on a rock in the middle of the river | {F} jumped aboard with wet feet | flies swims
tie | {FF} hung from a branch above the brook by one foot | {F} had something to hold on to | flies climbs
sew | {FF} lay in a hammock that was ripping above the nettles | the hammock held, with {F} still inside | -
fix | the floor of the tree house was coming loose under {FF} | the floor stopped shaking under {F} | flies
open | {FF} was locked in the pantry with nothing but pickles | {F} tumbled out, smelling of vinegar | -
time | {FF} had fallen asleep on the beach, and the tide was coming in |
    {F} was woken with one minute to spare | flies swims
soft | {FF} was dangling from the gutter and could not hold on much longer |
    {F} let go and landed with a soft puff | flies climbs
write | {FF} was about to step onto the rotten bridge | {F} read the word STOP just in time | flies
know | {FF} had eaten a strange mushroom and turned a bit green |
    page forty told {F} to drink water and take a nap | -
share | a wild boar would not let {FF} come down from a tree stump | the boar forgot all about {F} | flies
play | a cross old bull had trapped {FF} behind a trough |
    the bull stared at it until {F} had slipped away | flies
catch | {FF} had slipped off the stones and was drifting downstream |
    {F} was pulled ashore, spitting water | flies swims
"""


def _tags(cell: str) -> frozenset[str]:
    return frozenset(cell.split()) - {"-"}


def _troubles() -> dict[str, tuple[Trouble, ...]]:
    found: dict[str, list[Trouble]] = {}
    for table in (troubles_by_hand.TABLE, troubles_by_heart.TABLE):
        for kind, want, trouble, result, done, tags in rows(table, 6):
            found.setdefault(kind, []).append(Trouble(want, trouble, result, done, _tags(tags)))
    return {kind: tuple(troubles) for kind, troubles in found.items()}


TROUBLES: dict[str, tuple[Trouble, ...]] = _troubles()
PERILS: dict[str, Peril] = {kind: Peril(peril, result, _tags(tags)) for kind, peril, result, tags in rows(_PERILS, 4)}
