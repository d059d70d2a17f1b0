"""What a plot is, and the sentences that all plots share.

Goes in: nothing. Comes out: `Plot` and `Ask`, the opening lines and the ways to bring in the thing. All
templates are filled by `stories` from one set of slots:

    {H} {N} {h}     the hero: Pip, Pip the fox, fox
    {F} {FF} {f}    the friend: Olive, Olive the owl, owl
    {T} {a_T}       the thing: lantern, a red lantern
    {he} {him} {his} {He} {His} {fhe} {fhim} {fhis} {Fhe} {Fhis}
    {want} {trouble} {result} {done} {peril}   what `troubles` says about the thing
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ask:
    """A question and its answer; a right answer has one of the phrases `wants` and none of `bans`."""

    questions: tuple[str, ...]
    answer: str
    wants: tuple[str, ...]
    bans: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plot:
    """A way for a story to go: beats in order, each with several wordings, and what it settles.

    A beat whose first wording is blank may be left out.
    """

    name: str
    needs: str  # "trouble", "peril" or "nothing": what it draws from `troubles`
    beats: tuple[tuple[str, ...], ...]
    endings: tuple[str, ...]
    want: str  # "{H} wanted <want>."
    trouble: str  # a clause
    help: str  # a sentence of the story: how it was set right
    short: str  # the story in two sentences
    asks: tuple[Ask, ...]


# The home always follows "lived", the name "called", the creature the name, what went wrong "trouble": a question
# leads back by the same words.
OPENINGS: tuple[str, ...] = (
    "{A_h} called {H} lived {place}. Everyone there knew {N}.",
    "There was once {a_h} called {H}, who lived {place}. {N} could {skill}.",
    "{A_h} called {H} lived {place}. {N} liked it there.",
    "Once upon a time, {a_h} called {H} lived {place}. Nobody was quite like {N}.",
    "{A_h} called {H} lived {place}, and that suited {N} very well.",
    "{A_h} called {H} lived {place}. Everyone came to see how {N} could {skill}.",
)
OWNING: tuple[str, ...] = (
    "{He} had {a_T} with {look}.",
    "Of all {his} things {he} liked one best: {a_T} with {look}.",
    "{H} was very proud of {a_T} with {look}.",
    "{He} never went far without {a_T} with {look}.",
    "{He} owned a spoon, a bed and {a_T} with {look}.",
    "{His} greatest treasure was {a_T} with {look}.",
)
WANTING: tuple[str, ...] = (
    "{Time}, {H} wanted {want}.",
    "{Time}, {H} made up {his} mind: {he} wanted {want}.",
    "More than anything, {H} wanted {want}.",
    "{Time}, {he} told {FF} that {he} wanted {want}.",
)
TROUBLE: tuple[str, ...] = (
    "The trouble was that {trouble}.",
    "But there was trouble: {trouble}.",
    "But the trouble was that {trouble}.",
    "Sadly, there was one trouble: {trouble}.",
)
USING: tuple[str, ...] = (
    "{H} {act}, and {result}.",
    "So {H} {act}, and {result}.",
    "Quick as a wink, {H} {act}, and {result}.",
    "Very calmly, {H} {act}, and {result}.",
)
