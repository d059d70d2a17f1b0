"""What is wrong with a model's reply, given what was said before it.

In: a turn of a held-out talk, the reply, and the stories told before it. Out: a fault in a few words, or None.

A reply is right if it is one of the wordings that the world has for it, or says what they say and nothing else: each
value that the question asks for, or a phrase of `right`; no other value that could stand in its place; no sentence or
denial that the wordings do not have; only words of the world.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from kiara_cli.core.data.worlds.talks import Turn, says, words
from kiara_cli.core.data.worlds.template import SLOT, Rows, Slot, Template, fill
from kiara_cli.core.data.worlds.told import Stories, Told
from kiara_cli.core.data.worlds.world import Exchange, World

DENIALS = re.compile(r"\b(?:not|no|never|nobody|nothing|none|neither|nor|cannot)\b|n't\b")
SHORT = 3  # letters: values of another column that are no longer, such as "he", are no statement
SENTENCE = re.compile(r"(?<=[.!?])[\"']?\s+")


class Judge:
    """Judges replies in one world."""

    def __init__(self, world: World) -> None:
        self.world, self.stories = world, Stories(world)
        self._vocabulary = {word for text in _texts(world) for word in words(SLOT.sub(" ", text))} | {"a", "an"}

    def fault(self, turn: Turn, reply: str, told: Told | None = None, earlier: Sequence[str] = ()) -> str | None:
        """Say what is wrong with a reply; `told` is the story that it was read as, `earlier` are those before."""
        if not words(reply):
            return "says nothing"
        if turn.tells:
            return self._of_story(turn, reply, told, earlier)
        faults = [self._against(turn, template, reply) for template in turn.answers]
        return None if None in faults else faults[0]

    def _against(self, turn: Turn, template: Template, reply: str) -> str | None:
        """Say how a reply differs from what a wording says."""
        exchange, rows = turn.exchange, turn.had.rows
        for phrase in (wrong.fill(rows) for wrong in exchange.wrong):
            if turn.known and says(reply, phrase):
                return f"says '{phrase}'"
        wording = template.fill(rows)
        if words(reply) == words(wording):
            return None
        if words(reply) == words(turn.user) and len(words(reply)) > 2:
            return "repeats what was said"
        right = [phrase.fill(rows) for phrase in exchange.right] if turn.known else []
        needed = [phrase for phrase in right if says(reply, phrase)] if right else _needed(exchange, template, rows)
        if missing := [phrase for phrase in needed or right if not says(reply, phrase)]:
            return f"does not say '{missing[0]}'"
        return (
            self._other_value(turn, template, reply)
            or _extra_sentence(turn, needed, wording, reply)
            or _denial(" ".join([wording, *right]), reply)
            or _stutter(wording, reply)
            or self._strange_word(turn, reply)
        )

    def _of_story(self, turn: Turn, reply: str, told: Told | None, earlier: Sequence[str]) -> str | None:
        if told is None:
            rest = SENTENCE.split(reply.strip()[self.stories.reached :])[0]
            return (
                f"is no story of this world from '{rest}' on" if rest else "is no whole story, or contradicts itself"
            )
        for slot in turn.wording.slots():
            asked = _value(slot, turn.had.rows)
            if slot.name not in told.rows or _value(slot, told.rows) != asked:
                return f"is not about '{asked}'"
        said = sentences(reply)
        if any(2 * len(said & sentences(story)) > len(said) for story in earlier):
            return "was told before"
        return None

    def _strange_word(self, turn: Turn, reply: str) -> str | None:
        strange = [word for word in words(reply) if word not in self._vocabulary and word not in words(turn.user)]
        return f"'{strange[0]}' is no word of this world" if strange else None

    def _other_value(self, turn: Turn, template: Template, reply: str) -> str | None:
        """Find a value that could stand in the place of a right one: of its column, or another row of its table."""
        exchange, rows, left = turn.exchange, turn.had.rows, reply.lower()
        slots = list(template.slots()) or [slot for right in exchange.right for slot in right.slots()]
        for slot in sorted(slots, key=lambda slot: -len(_value(slot, rows))):
            left = re.sub(rf"(?<!\w){re.escape(_value(slot, rows).lower())}(?!\w)", " ", left, count=1)
        wordings = [*(one for beat in exchange.reply for one in beat), *exchange.right, turn.wording]
        fixed = " ".join(SLOT.sub(" ", one.text) for one in wordings).lower()
        for slot in slots:
            for row in self.world.rows[turn.had.talk.names[slot.name].table]:
                for column, text in row.items():
                    other = fill(text, rows).lower()
                    if other == fill(rows[slot.name][column], rows).lower() or says(fixed, other):
                        continue
                    if (column == slot.column or len(other) > SHORT) and says(left, other):
                        return f"says '{other}', too"
        return None


def _needed(exchange: Exchange, template: Template, rows: Rows) -> list[str]:
    """Return what a reply has to hold: the values that the question does not name, or else all of the wording."""
    named = {slot.name for user in exchange.user + exchange.held_out for slot in user.slots()}
    new = [
        _value(slot, rows) for slot in template.slots() if slot.column != "name" or slot.name not in named
    ]  # fmt: skip
    return new or [template.fill(rows).rstrip(".!?")]


def _extra_sentence(turn: Turn, needed: Sequence[str], wording: str, reply: str) -> str | None:
    """Find a sentence that neither says what is needed nor belongs to the exchange or to the story."""
    rows = turn.had.rows
    known = sentences(wording) | sentences(turn.had.reply if turn.had.talk.tells else "")
    if turn.known:
        known |= {found for beat in turn.exchange.reply for one in beat for found in sentences(one.fill(rows))}
    for sentence in SENTENCE.split(reply):
        if not any(says(sentence, phrase) for phrase in needed) and not sentences(sentence) <= known:
            return f"adds '{sentence}'"
    return None


def _denial(wording: str, reply: str) -> str | None:
    found = sorted(set(DENIALS.findall(reply.lower())) - set(DENIALS.findall(wording.lower())))
    return f"says '{found[0]}'" if found else None


def _stutter(wording: str, reply: str) -> str | None:
    said, meant = words(reply), words(wording)
    meant_twice = {first for first, second in itertools.pairwise(meant) if first == second}
    for first, second in itertools.pairwise(said):
        if first == second and first not in meant_twice:
            return f"says '{first}' twice"
    return None


def sentences(text: str) -> set[tuple[str, ...]]:
    """Return the sentences of a text, each as its words."""
    return {tuple(words(sentence)) for sentence in SENTENCE.split(text)} - {()}


def _value(slot: Slot, rows: Rows) -> str:
    return fill(rows[slot.name][slot.column], rows)


def _texts(world: World) -> Iterator[str]:
    """Yield every text of a world."""
    yield from (value for rows in world.rows.values() for row in rows for value in row.values())
    yield from (template.text for template in world.unsaid + world.unfound)
    for talk in world.talks:
        for exchange in (talk.opening, *talk.later):
            beats = (*exchange.reply, exchange.user, exchange.held_out, exchange.right, exchange.before)
            yield from (template.text for beat in beats for template in beat)
