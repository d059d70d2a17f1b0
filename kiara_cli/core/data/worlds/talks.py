"""A world → conversations to learn from, and talks that no conversation holds, for the scorer.

In: a world, a seed and a size. Out: conversations as OpenAI's messages, the same on every machine: only `random()` is
used; or a `Course` of `Turn`s with their right replies, drawn one by one: a scorer asks about what a model has told.

A talk whose slots are drawn from two rows or more keeps one pair of rows in ten for the scorer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from kiara_cli.core.data.worlds.manners import HASTE, TYPED, capital, in_small_letters, manner, typed
from kiara_cli.core.data.worlds.template import Row, Rows, Template, fill
from kiara_cli.core.data.worlds.world import Beat, Exchange, Talk, World
from kiara_cli.core.tokenizer.passages import with_passages

VERSION = 2  # of what is written for a given world and seed
LONGEST = 10  # turns of a conversation
LATER = 0.55  # share of turns that come back to an earlier talk, where there is one (a guess)
READ = 0.3  # share of conversations that end with a question about passages, where the world has such (a guess)
BESIDE = 0.7  # of the passages of a question that do not hold its answer, how many are shown (a guess)
PADDED = 0.5  # of passages, how many have sentences of others around them (a guess)
FOUND = 0.8  # of those, how many are answered by one of their passages (a guess)
SHORT = 0.35  # share of conversations of one or two turns, in which looking back is learned first (a guess)
RARE = 0.3  # of what a person names, how much is rare, where the world has such rows (a guess)
UNSEEN = 0.15  # the same for the scorer and what is never learned
EARLY = 0.04  # share of turns that ask about what was not said yet (a guess)
OPENED = 0.5  # share of conversations that begin with a talk whose place is first, and end with one that is last

BACK = 0.3  # of talks whose place another has taken, how many are come back to (a guess)
RECENT = 4  # talks that a later turn comes back to, of those that have something that can follow
LEFT_OUT = 0.7  # share of stories without a sentence that may be left out

T = TypeVar("T")
Message = dict[str, str]


@dataclass
class Had:
    """A talk that was had: which rows its slots stand for, what was answered, and whether another took its place."""

    talk: Talk
    rows: dict[str, Row]
    reply: str
    told: frozenset[str] = frozenset()  # names of the slots that its sentences had
    old: bool = False
    whole: bool = True  # False: a model's reply that is no story of this world, or only in part
    asked: set[str] = field(default_factory=set)  # names of the later exchanges that were had since


@dataclass(frozen=True)
class Turn:
    """What a person says, the reply to learn, and whence both come."""

    wording: Template  # what the person says
    style: float  # how it is typed
    reply: str
    exchange: Exchange
    had: Had
    answers: Beat  # wordings of a right reply
    known: bool = True  # False: it asks about what was not said
    passages: tuple[str, ...] = ()  # texts that stand before the question as long as it is the newest

    @property
    def prompt(self) -> str:
        """What a model reads of it as long as it is the newest."""
        return with_passages(self.user, self.passages)

    @property
    def user(self) -> str:
        return typed(self.style, self.wording, self.had.rows)

    @property
    def opens(self) -> bool:
        """Whether it begins a talk, rather than to come back to one."""
        return self.exchange is self.had.talk.opening

    @property
    def tells(self) -> bool:
        """Whether a story is asked for."""
        return self.opens and self.had.talk.tells

    @property
    def manner(self) -> str:
        """How it is typed, in words."""
        return manner(self.style)


def conversations(world: World, seed: int, size: int) -> Iterator[list[Message]]:
    """Write conversations until their contents add up to at least `size` bytes."""
    rng, written = Random(1_000_003 * VERSION + seed), 0
    while written < size:
        messages = [
            message
            for turn in conversation(world, rng, 1 + int(rng.random() * (2 if rng.random() < SHORT else LONGEST)))
            for message in ({"role": "user", "content": turn.prompt}, {"role": "assistant", "content": turn.reply})
        ]
        written += sum(len(message["content"].encode()) for message in messages)
        yield messages


def held_out_talks(world: World, number: int, seed: int, turns: int = LONGEST) -> list[list[Turn]]:
    """Draw talks on reserved rows and in reserved words, where there are such."""
    rng = Random(1_000_003 * VERSION + 500_009 + seed)
    return [conversation(world, rng, turns, held_out=True) for _ in range(number)]


def conversation(world: World, rng: Random, turns: int, held_out: bool = False) -> list[Turn]:
    """Draw a conversation of so many turns."""
    course = Course(world, rng, turns, held_out)
    return [course.next() for _ in range(turns)]


class Course:
    """A conversation in the making: its turns are drawn one by one, on top of what was said so far.

    `had` may be corrected between two turns: to what a model has told in the place of a story's reply.
    """

    def __init__(self, world: World, rng: Random, turns: int, held_out: bool = False) -> None:
        self.world, self.rng, self.turns, self.held_out = world, rng, turns, held_out
        self.had: list[Had] = []
        self._number = 0
        place = {name: [talk for talk in world.talks if talk.place == name] for name in ("first", "", "last")}
        self._first, self._last = place["first"], place["last"]
        self._anywhere = [talk for talk in place[""] if not talk.passages]
        self._reading = [talk for talk in world.talks if talk.passages]
        if self._reading and rng.random() < READ:
            self._last = self._reading
        self._opens = self._first and rng.random() < OPENED
        reads = bool(self._last and self._last[0].passages)
        self._closes = self._last and (reads or (turns > 1 and rng.random() < OPENED))

    def next(self) -> Turn:
        """Draw the next turn."""
        self._number += 1
        if self._number == self.turns and self._closes:
            return self._open(self._last)
        if self._number == 1 and self._opens:
            return self._open(self._first)
        return self._next()

    def _style(self) -> float:
        """Draw how a message is typed; the scorer's are typed in haste more often."""
        return self.rng.random() * (TYPED / HASTE if self.held_out else 1)

    def _next(self) -> Turn:
        """Come back to an earlier talk, ask about one that was not had, or begin another."""
        rng, kind = self.rng, self.rng.random()
        if kind < LATER:
            recent = [one for one in self.had if one.talk.later and (not one.old or rng.random() < BACK)][-RECENT:]
            if recent and (laters := self._laters(one := pick(rng, recent))):
                later = pick(rng, laters)
                one.asked.add(later.name)
                return self._later(one, later)
        names = {one.talk.topic for one in self.had}
        missing = [
            (talk, later)
            for talk in self._anywhere for later in talk.later if later.before and talk.topic not in names
        ]  # fmt: skip
        if missing and kind > 1 - EARLY:
            talk, later = pick(rng, missing)
            one = Had(talk, _draw(self.world, rng, talk, frozenset(), self.held_out), "")
            wording = pick(rng, _wordings(later, self.held_out))
            if not list(wording.slots()):  # else it would tell what it asks for
                reply = pick(rng, later.before).fill(one.rows)
                return Turn(wording, self._style(), reply, later, one, later.before, known=False)
        return self._open(self._anywhere)

    def _open(self, talks: Sequence[Talk]) -> Turn:
        """Begin a talk; one that was had before takes the place of what it said then."""
        rng = self.rng
        left, talk = rng.random() * sum(talk.share for talk in talks), talks[-1]
        for candidate in talks:
            if (left := left - candidate.share) < 0:
                talk = candidate
                break
        wording, style = pick(rng, _wordings(talk.opening, self.held_out)), self._style()
        rows = _draw(self.world, rng, talk, wording.names, self.held_out)
        if in_small_letters(style) and not talk.tells and not talk.passages:  # then a reply repeats them so
            rows = {name: _lowered(row) if name in wording.names else row for name, row in rows.items()}
        known = not talk.passages or rng.random() < FOUND
        shown = self._passages(talk, rows, known) if talk.passages else []
        said = [_one_of(rng, beat) for beat in talk.opening.reply] if known else [pick(rng, self.world.unfound)]
        told = frozenset(name for template in said for name in template.all_names(rows))
        one = Had(talk, rows, " ".join(capital(template.fill(rows)) for template in said if template.text), told)
        for other in self.had:
            other.old = other.old or other.talk.topic == talk.topic
        self.had.append(one)
        answers, passages = (
            talk.opening.reply[0] if known else self.world.unfound,
            sorted(shown, key=lambda _: rng.random()),
        )
        return Turn(wording, style, one.reply, talk.opening, one, answers, known, tuple(passages))

    def _passages(self, talk: Talk, rows: Rows, known: bool) -> list[str]:
        """Write what stands before a question: its own passages, or without the answer; among and in them others."""
        rng = self.rng
        needed, *beside = [pick(rng, beat).fill(rows) for beat in talk.passages]
        shown = [needed] * known + [text for text in beside if not known or rng.random() < BESIDE]
        shown += self._statements(talk, int(rng.random() * 3))
        return [self._padded(talk, text) for text in shown]

    def _padded(self, talk: Talk, text: str) -> str:
        """Put up to three sentences of other passages around a passage."""
        more = self._statements(talk, int(self.rng.random() * 4)) if self.rng.random() < PADDED else []
        return " ".join(sorted([text, *more], key=lambda _: self.rng.random()))

    def _statements(self, talk: Talk, number: int) -> list[str]:
        """Write so many passages of other questions, if there are others."""
        rng, others = self.rng, [other for other in self._reading if other is not talk]
        drawn = [pick(rng, others) for _ in range(number if others else 0)]
        rows = [_draw(self.world, rng, other, frozenset(), self.held_out) for other in drawn]
        return [pick(rng, pick(rng, other.passages)).fill(row) for other, row in zip(drawn, rows, strict=True)]

    def _laters(self, one: Had) -> list[Exchange]:
        """Return what can still follow a talk."""
        return [later for later in one.talk.later if later.name not in one.asked and self._askable(one, later)]

    def _askable(self, one: Had, later: Exchange) -> bool:
        """Say whether an exchange can follow: with a wording that names only what was told."""
        if not one.talk.tells:
            return bool(_wordings(later, self.held_out, one.old))
        if not one.whole and not (one.told and suiting(later, one.rows, one.reply).names <= one.told):
            return False
        return bool(_wordings(later, self.held_out, one.old, one))

    def _later(self, one: Had, later: Exchange) -> Turn:
        """Ask about an earlier talk; where that told a story without the answer, the reply says so."""
        rng, tells = self.rng, one.talk.tells
        answer = suiting(later, one.rows, one.reply) if tells else pick(rng, later.reply[0])
        known = not tells or all(
            slot.name in one.told and says(one.reply, fill(one.rows[slot.name][slot.column], one.rows))
            for slot in answer.slots()
        )
        answers = ((answer,) if tells else later.reply[0]) if known else self.world.unsaid
        reply = answer if known else pick(rng, answers)
        wording = pick(rng, _wordings(later, self.held_out, one.old, one if tells else None))
        before = [had for had in self.had if had.old and had.talk.topic == one.talk.topic]
        bare = [other for other in _wordings(later, self.held_out, story=one) if not other.names]
        if one.old and len(before) == 1 and bare and self.world.earlier:
            wording = _led(pick(rng, self.world.earlier), pick(rng, bare))
        return Turn(wording, self._style(), capital(reply.fill(one.rows)), later, one, answers, known)


def _one_of(rng: Random, beat: Beat) -> Template:
    """Draw a wording; a sentence that may be left out mostly is."""
    if any(not wording.text for wording in beat):
        return Template("") if rng.random() < LEFT_OUT else pick(rng, [wording for wording in beat if wording.text])
    return pick(rng, beat)


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


def _wordings(exchange: Exchange, held_out: bool, naming: bool = False, story: Had | None = None) -> Beat:
    """Return what to draw from: for the scorer what is held out; with `naming` only what names something.

    With a `story` only what can be asked about it: it may name what the story does not hold, but not by chance
    something else that it does hold, and nothing that cannot be read from a story of which only parts are known.
    """
    both = (exchange.held_out, exchange.user) if held_out else (exchange.user,)
    fits: dict[frozenset[str], bool] = {}  # by the names of a wording, which many have in common
    for wordings in both:
        found = []
        for wording in wordings:
            if (names := wording.names) not in fits:
                nameable = story is None or all(_nameable(story, name) for name in names)
                fits[names] = bool(names or not naming) and nameable
            if fits[names]:
                found.append(wording)
        if found:
            return tuple(found)
    return ()


def _nameable(story: Had, name: str) -> bool:
    return name in story.told or (story.whole and not says(story.reply, story.rows[name]["name"]))


def says(text: str, phrase: str) -> bool:
    """Say whether a phrase stands in a text as whole words."""
    text, phrase = text.lower(), phrase.lower()
    return phrase in text and re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) is not None


def _led(lead: Template, wording: Template) -> Template:
    """Put "In the first story, " or the like before a question."""
    return Template(f"{lead.text} {wording.text[0].lower()}{wording.text[1:]}", wording.line)


def _lowered(row: Row) -> Row:
    return {column: value.lower() for column, value in row.items()}


def _draw(world: World, rng: Random, talk: Talk, named: frozenset[str], held_out: bool) -> dict[str, Row]:
    """Draw a row for each name; no two names of a talk stand for the same row of a table.

    What the person names may be something rare, or for the scorer something that no conversation holds.
    """
    more, often = (world.unseen, UNSEEN) if held_out else (world.rare, RARE)
    for _ in range(1000):
        rows: dict[str, Row] = {}
        for name, draw in talk.names.items():
            taken = [row["name"] for other, row in rows.items() if talk.names[other].table == draw.table]
            fitting: Sequence[Row] = world.tables[draw.table]
            if name in named and draw.table in more and draw.by is None and rng.random() < often:
                fitting = more[draw.table]
            if draw.by is not None:
                fitting = [row for row in fitting if draw.fits(row, rows)]
            if taken:
                fitting = [row for row in fitting if row["name"] not in taken]
            rows[name] = pick(rng, fitting)
        if len(rows) < 2 or reserved(rows) == held_out:
            return rows
    return rows  # a world so small that all its pairs are on one side


def reserved(rows: dict[str, Row]) -> bool:
    """Say whether this choice of rows is kept from training, as one in ten is by its first two names."""
    names = "|".join(row["name"] for row in list(rows.values())[:2])
    return hashlib.sha256(names.encode()).digest()[0] % 10 == 4


def pick(rng: Random, choices: Sequence[T]) -> T:
    """Draw one of the choices."""
    return choices[int(rng.random() * len(choices))]
