"""A world → conversations to learn from, and talks that no conversation holds, for the scorer.

In: a world, a seed and a size. Out: conversations as OpenAI's messages, the same on every machine: only `random()` is
used; or `Turn`s, each with what a right reply has to hold.

A talk whose slots are drawn from two rows or more keeps one pair of rows in ten for the scorer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from kiara_cli.core.data.worlds.template import Row, Rows, Template
from kiara_cli.core.data.worlds.world import Beat, Exchange, Talk, World

VERSION = 1  # of what is written for a given world and seed
LONGEST = 10  # turns of a conversation
LATER = 0.45  # share of turns that come back to an earlier talk, where there is one (a guess)
EARLY = 0.04  # share of turns that ask about what was not said yet (a guess)
OPENED = 0.5  # share of conversations that begin with a talk whose place is first, and end with one that is last
TYPED = 0.15  # share of messages typed without capital or mark, and half as many with two letters exchanged

BACK = 0.3  # of talks whose place another has taken, how many are come back to (a guess)
RECENT = 4  # talks that a later turn comes back to
LEFT_OUT = 0.7  # share of stories without a sentence that may be left out

T = TypeVar("T")
Message = dict[str, str]


@dataclass
class Had:
    """A talk that was had: which rows its slots stand for, what was answered, and whether another took its place."""

    talk: Talk
    rows: dict[str, Row]
    reply: str
    old: bool = False
    asked: set[str] = field(default_factory=set)  # names of the later exchanges that were had since


@dataclass(frozen=True)
class Turn:
    """What a person says, the reply to learn, and whence both come."""

    wording: Template  # what the person says
    style: float  # how it is typed
    reply: str
    exchange: Exchange
    had: Had
    known: bool = True  # False: it asks about what was not said

    @property
    def user(self) -> str:
        return self.said(self.had.rows)

    def said(self, rows: Rows) -> str:
        """Return what the person says about these rows."""
        return typed(self.style, self.wording.fill(rows))


def conversations(world: World, seed: int, size: int) -> Iterator[list[Message]]:
    """Write conversations until their contents add up to at least `size` bytes."""
    rng, written = Random(1_000_003 * VERSION + seed), 0
    while written < size:
        messages = [
            message
            for turn in conversation(world, rng, 1 + int(rng.random() * LONGEST))
            for message in ({"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.reply})
        ]
        written += sum(len(message["content"].encode()) for message in messages)
        yield messages


def held_out_talks(world: World, number: int, seed: int, turns: int = LONGEST) -> list[list[Turn]]:
    """Draw talks on reserved rows and in reserved words, where there are such."""
    rng = Random(1_000_003 * VERSION + 500_009 + seed)
    return [conversation(world, rng, turns, held_out=True) for _ in range(number)]


def conversation(world: World, rng: Random, turns: int, held_out: bool = False) -> list[Turn]:
    """Draw a conversation of so many turns."""
    had: list[Had] = []
    drawn: list[Turn] = []
    first = [talk for talk in world.talks if talk.place == "first"]
    last = [talk for talk in world.talks if talk.place == "last"]
    anywhere = [talk for talk in world.talks if not talk.place]
    opens, closes = first and rng.random() < OPENED, turns > 1 and last and rng.random() < OPENED
    for number in range(turns):
        if number == 0 and opens:
            drawn.append(_open(world, rng, first, had, held_out))
        elif number == turns - 1 and closes:
            drawn.append(_open(world, rng, last, had, held_out))
        else:
            drawn.append(_next(world, rng, anywhere, had, held_out))
    return drawn


def _next(world: World, rng: Random, talks: Sequence[Talk], had: list[Had], held_out: bool) -> Turn:
    """Come back to an earlier talk, ask about one that was not had, or begin another."""
    kind = rng.random()
    recent = [one for one in had if not one.old or rng.random() < BACK][-RECENT:]
    one = pick(rng, recent) if recent and kind < LATER else None
    laters = [later for later in one.talk.later if later.name not in one.asked] if one else []
    laters = [later for later in laters if _wordings(later, held_out, one.old)] if one else []
    if one is not None and laters:
        later = pick(rng, laters)
        one.asked.add(later.name)
        return _later(world, rng, one, later, held_out)
    names = {one.talk.topic for one in had}
    missing = [(talk, later) for talk in talks for later in talk.later if later.before and talk.topic not in names]
    if missing and kind > 1 - EARLY:
        talk, later = pick(rng, missing)
        one = Had(talk, _draw(world, rng, talk, held_out), "")
        wording = pick(rng, _wordings(later, held_out))
        if not list(wording.slots()):  # else it would tell what it asks for
            return Turn(wording, rng.random(), pick(rng, later.before).fill(one.rows), later, one, known=False)
    return _open(world, rng, talks, had, held_out)


def _open(world: World, rng: Random, talks: Sequence[Talk], had: list[Had], held_out: bool) -> Turn:
    """Begin a talk; one that was had before takes the place of what it said then."""
    left, talk = rng.random() * sum(talk.share for talk in talks), talks[-1]
    for candidate in talks:
        if (left := left - candidate.share) < 0:
            talk = candidate
            break
    rows = _draw(world, rng, talk, held_out)
    wording = pick(rng, _wordings(talk.opening, held_out))
    said = [capital(_one_of(rng, beat).fill(rows)) for beat in talk.opening.reply]
    one = Had(talk, rows, " ".join(sentence for sentence in said if sentence))
    for other in had:
        other.old = other.old or other.talk.topic == talk.topic
    had.append(one)
    return Turn(wording, rng.random(), one.reply, talk.opening, one)


def _one_of(rng: Random, beat: Beat) -> Template:
    """Draw a wording; a sentence that may be left out mostly is."""
    if any(not wording.text for wording in beat):
        return Template("") if rng.random() < LEFT_OUT else pick(rng, [wording for wording in beat if wording.text])
    return pick(rng, beat)


def _later(world: World, rng: Random, one: Had, later: Exchange, held_out: bool) -> Turn:
    """Ask about an earlier talk; where that told a story without the answer, the reply says so."""
    template = suiting(later, one.rows, one.reply) if one.talk.tells else pick(rng, later.reply[0])
    known = not one.talk.tells or all(slot.value(one.rows).lower() in one.reply.lower() for slot in template.slots())
    reply = template if known else pick(rng, world.unsaid)
    wording = pick(rng, _wordings(later, held_out, one.old))
    return Turn(wording, rng.random(), capital(reply.fill(one.rows)), later, one, known)


def suiting(exchange: Exchange, rows: Rows, story: str) -> Template:
    """Return the wording whose words are all, or mostly, in a story: how it ended, and not how others do."""
    if len(exchange.reply[0]) == 1:
        return exchange.reply[0][0]
    told = set(words(story))

    def shared(wording: Template) -> float:
        said = words(wording.fill(rows))
        return sum(word in told for word in said) / len(said)

    return max(exchange.reply[0], key=shared)


def words(text: str) -> list[str]:
    """Return the words of a text in small letters."""
    return re.findall(r"\w+", text.lower())


def _wordings(exchange: Exchange, held_out: bool, naming: bool = False) -> Beat:
    """Return what to draw from: for the scorer what is held out; with `naming` only what names something."""
    both = (exchange.held_out, exchange.user) if held_out else (exchange.user,)
    for wordings in both:
        if found := tuple(wording for wording in wordings if not naming or list(wording.slots())):
            return found
    return ()


def _draw(world: World, rng: Random, talk: Talk, held_out: bool) -> dict[str, Row]:
    """Draw a row for each name; no two names of a talk stand for the same row of a table."""
    for _ in range(1000):
        rows: dict[str, Row] = {}
        for name, draw in talk.names.items():
            taken = [row["name"] for other, row in rows.items() if talk.names[other].table == draw.table]
            fitting = [row for row in world.tables[draw.table] if draw.fits(row, rows)]
            rows[name] = pick(rng, [row for row in fitting if row["name"] not in taken])
        if len(rows) < 2 or reserved(rows) == held_out:
            return rows
    return rows  # a world so small that all its pairs are on one side


def reserved(rows: dict[str, Row]) -> bool:
    """Say whether this choice of rows is kept from training, as one in ten is by its first two names."""
    names = "|".join(row["name"] for row in list(rows.values())[:2])
    return hashlib.sha256(names.encode()).digest()[0] % 10 == 4


def typed(style: float, text: str) -> str:
    """Write a message as people type it: now and then without capital and mark, or with two letters exchanged.

    `style` in 0 … 1 decides how, so that the same message about something else is typed alike.
    """
    text = capital(text)
    if style < TYPED:
        text = text[0].lower() + text[1:].rstrip(".?!")
    if style < TYPED / 2:
        places = [i for i in range(1, len(text) - 2) if text[i].isalpha() and text[i + 1].isalpha()]
        if places:
            at = places[int(style * 1e6) % len(places)]
            text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def pick(rng: Random, choices: Sequence[T]) -> T:
    """Draw one of the choices."""
    return choices[int(rng.random() * len(choices))]


def recognised(world: World, had: Had, reply: str) -> dict[str, list[Row]]:
    """Read from a model's own story which rows its slots can stand for; a name that it does not settle is left out.

    What the request named is settled by it; the rest by the sentences of the story that can be recognised.
    """
    choices: dict[str, Sequence[Row]] = dict(world.choices(had.talk))
    settled: dict[str, list[Row]] = {}
    for beat in had.talk.opening.reply:
        for template in (template for template in beat if template.text):
            for name, rows in (template.recognise(reply, choices) or {}).items():
                both = [row for row in settled.get(name, rows) if row in rows]
                settled[name] = both
    return {name: rows for name, rows in settled.items() if rows}
