"""Whether a model's reply is right, given what was said before it.

In: a turn of a held-out talk, and the model's reply. Out: yes or no. What a model told in a story of its own counts
as said: questions about it are judged by that story and not by the one that the talk was drawn with.
"""

from __future__ import annotations

import itertools
import re

from kiara_cli.core.data.worlds.talks import Turn, recognised, suiting
from kiara_cli.core.data.worlds.template import Rows, Template, fill
from kiara_cli.core.data.worlds.world import Beat, World

MOST = 64  # readings of a story that are tried


def is_right(world: World, turn: Turn, reply: str, story: str = "") -> bool:
    """Judge a reply; `story` is what the model itself told when the talk of this turn began, where it tells one."""
    exchange, had = turn.exchange, turn.had
    if not turn.known and exchange.before:
        return _says_one(exchange.before, reply, had.rows)
    if had.talk.tells and exchange is had.talk.opening:
        return _is_story(world, turn, reply)
    if had.talk.tells:
        return _follows(world, turn, reply, story)
    return any(_answers(world, turn, template, reply, had.rows) for template in exchange.reply[0])


def _follows(world: World, turn: Turn, reply: str, story: str) -> bool:
    """Judge the answer to a question about a story: as the story says, or that it does not say."""
    readings, told = recognised(world, turn.had, story), False
    template = suiting(turn.exchange, dict(turn.had.rows) | {name: rows[0] for name, rows in readings.items()}, story)
    slots = list(template.slots())
    names = sorted({slot.name for slot in slots})
    for chosen in itertools.islice(itertools.product(*(readings.get(name, []) for name in names)), MOST):
        rows = dict(turn.had.rows) | dict(zip(names, chosen, strict=True))
        if all(_holds(story, fill(rows[slot.name][slot.column], rows)) for slot in slots):
            told = True
            if _answers(world, turn, template, reply, rows):
                return True
    return not told and _says_one(world.unsaid, reply, turn.had.rows)


def _is_story(world: World, turn: Turn, reply: str) -> bool:
    """A story is right if it has as many sentences of its talk as it has beats, and holds what was asked for."""
    had = turn.had
    choices = dict(world.choices(had.talk))
    beats = [
        any(not template.text or template.recognise(reply, choices) is not None for template in beat)
        for beat in had.talk.opening.reply
    ]
    return all(beats) and all(_holds(reply, had.rows[slot.name][slot.column]) for slot in turn.wording.slots())


def _answers(world: World, turn: Turn, template: Template, reply: str, rows: Rows) -> bool:
    """Say whether a reply says what this template would: its slots' values, and no other value of their columns."""
    exchange = turn.exchange
    if any(_holds(reply, wrong.fill(rows)) for wrong in exchange.wrong):
        return False
    if exchange.right:
        return any(_holds(reply, right.fill(rows)) for right in exchange.right)
    slots = list(template.slots())
    if not slots:
        return _holds(reply, template.fill(rows).rstrip(".!?"))
    values = [fill(rows[slot.name][slot.column], rows) for slot in slots]
    named = {slot.name for user in exchange.user + exchange.held_out for slot in user.slots()}
    new = [
        value for slot, value in zip(slots, values, strict=True) if slot.column != "name" or slot.name not in named
    ]
    if not all(
        _holds(reply, value) for value in new or values
    ):  # what the question itself names need not be repeated
        return False
    said = reply.lower()
    for value in values:
        said = re.sub(_whole(value), " ", said)
    draws = turn.had.talk.names
    others = (fill(row[slot.column], rows) for slot in slots for row in world.tables[draws[slot.name].table])
    fixed = template.text.lower()
    return not any(_holds(said, other) and other.lower() not in fixed for other in others if other not in values)


def _says_one(beat: Beat, reply: str, rows: Rows) -> bool:
    return any(_holds(reply, template.fill(rows).rstrip(".!?")) for template in beat)


def _holds(text: str, phrase: str) -> bool:
    """Say whether a phrase stands in a text as whole words."""
    return re.search(_whole(phrase), text.lower()) is not None


def _whole(phrase: str) -> str:
    return rf"(?<!\w){re.escape(phrase.lower())}(?!\w)"
