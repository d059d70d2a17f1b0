"""The corpus `tales`: conversations without end, and what a scorer needs to judge a model that learned from
them.

Goes in: a seed and a size. Comes out: conversations in the shape of OpenAI's messages, the same on every
machine and for every Python version. One creature-thing pair in ten and a few ways of asking never occur
in them; they are kept for `held_out_requests`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from random import Random

from kiara_cli.core.data.tales import (
    creatures,
    followups,
    memory,
    plot,
    plots_in_brief,
    requests,
    smalltalk,
    stories,
    things,
    troubles,
    words,
)
from kiara_cli.core.data.tales.creatures import Creature
from kiara_cli.core.data.tales.stories import Cast, Story, article, pick, tell
from kiara_cli.core.data.tales.things import Thing

VERSION: int = 5

Message = dict[str, str]

_REQUESTS: tuple[tuple[float, str], ...] = (  # cumulative shares; guesses
    (0.62, "pair"), (0.71, "hero"), (0.78, "thing"), (0.86, "any"), (0.91, "two"),
    (0.96, "named"), (1.0, "placed"),
)  # fmt: skip
_PHRASES: dict[str, tuple[str, ...]] = {
    "pair": requests.PAIR, "hero": requests.HERO, "thing": requests.THING, "any": requests.ANY,
    "two": requests.TWO, "named": requests.NAMED, "placed": requests.PLACED, "brief": requests.BRIEF,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A request that no training conversation holds; `expect` has "names", or "any_of" and "none_of"."""

    kind: str  # "story", "followup", "unknown", "greeting" or "count"
    messages: list[Message]
    expect: dict[str, list[str]]


def conversations(seed: int, size: int) -> Iterator[dict[str, list[Message]]]:
    """Write conversations until their contents add up to at least `size` bytes."""
    rng = Random(1_000_003 * VERSION + seed)
    written = 0
    while written < size:
        messages = _conversation(rng)
        written += sum([len(message["content"]) for message in messages])
        yield {"messages": messages}


def _say(messages: list[Message], user: str, assistant: str) -> None:
    messages.append({"role": "user", "content": user})
    messages.append({"role": "assistant", "content": assistant})


def _conversation(rng: Random) -> list[Message]:
    messages: list[Message] = []
    kind = rng.random()  # the shares are guesses
    if kind < 0.27:
        _story_talk(rng, messages)
    elif kind < 0.45:
        _brief_talk(rng, messages)
    elif kind < 0.47:
        _two_stories(rng, messages)
    elif kind < 0.51:
        _offered_story(rng, messages)
    elif kind < 0.86:
        _memory_talk(rng, messages)
    else:
        _small_talk(rng, messages)
    return messages


def _story_talk(rng: Random, messages: list[Message]) -> None:
    if rng.random() < 0.12:
        _say(messages, *smalltalk.chat(rng, smalltalk.HELLO))
    asked, story = _told(rng)
    _say(messages, asked, _opened(rng, story))
    _questions(rng, messages, story, pick(rng, (2, 3, 4, 5)))
    _part(rng, messages)


def _brief_talk(rng: Random, messages: list[Message]) -> None:
    asked, story = _told(rng, "brief")
    _say(messages, asked, _opened(rng, story))
    _questions(rng, messages, story, pick(rng, (2, 3, 4, 5)))
    _part(rng, messages)


def _memory_talk(rng: Random, messages: list[Message]) -> None:
    if rng.random() < 0.2:
        _say(messages, *smalltalk.chat(rng, smalltalk.HELLO))
    for said, reply in memory.told_and_asked(rng):
        _say(messages, said, reply)


def _part(rng: Random, messages: list[Message]) -> None:
    if rng.random() < 0.15:
        _say(messages, *smalltalk.chat(rng, smalltalk.THANKS))
    if rng.random() < 0.08:
        _say(messages, *smalltalk.chat(rng, smalltalk.BYE))


def _two_stories(rng: Random, messages: list[Message]) -> None:
    for _ in range(2):
        asked, story = _told(rng)
        _say(messages, asked, _opened(rng, story))
        _questions(rng, messages, story, 1)
    _say(messages, *smalltalk.chat(rng, smalltalk.THANKS if rng.random() < 0.5 else smalltalk.BYE))


def _offered_story(rng: Random, messages: list[Message]) -> None:
    asked, offered, cast = smalltalk.offer(rng)
    _say(messages, asked, offered)
    if rng.random() < 0.25:
        _say(messages, pick(rng, smalltalk.NO), pick(rng, smalltalk.NO_REPLIES))
        return
    story = tell(rng, cast)
    _say(messages, pick(rng, smalltalk.YES), _opened(rng, story))
    _questions(rng, messages, story, pick(rng, (0, 2, 3, 4)))


def _small_talk(rng: Random, messages: list[Message]) -> None:
    if rng.random() < 0.4:
        _say(messages, *smalltalk.chat(rng, smalltalk.HELLO))
    for _ in range(pick(rng, (1, 1, 2, 2, 3))):
        asked, said = pick(rng, smalltalk.TOPICS)(rng)
        if all(message["content"] != asked for message in messages):
            _say(messages, asked, said)
    if rng.random() < 0.15:
        _say(messages, *smalltalk.chat(rng, smalltalk.BYE))


def _told(rng: Random, kind: str = "") -> tuple[str, Story]:
    """Draw a request, of a kind if one is given, and tell the story that it asks for."""
    drawn = rng.random()
    kind = kind or next(kind for share, kind in _REQUESTS if drawn < share)
    phrase = pick(rng, _PHRASES[kind])
    hero = None if kind in ("thing", "any") else pick(rng, creatures.CREATURES)
    thing = None
    if "{t" in phrase:
        hero, thing = stories.draw_pair(rng, Cast(hero=hero))
    friend = pick(rng, _friends(hero, thing)) if "{d" in phrase else None
    name = pick(rng, words.HE_NAMES + words.SHE_NAMES) if "{name}" in phrase else ""
    place = pick(rng, words.PLACES) if "{place}" in phrase else ""
    story = tell(
        rng,
        Cast(
            hero=None if kind == "thing" else hero, thing=thing, friend=friend, name=name, place=place,
            brief=kind == "brief",
        ),
    )  # fmt: skip
    return _ask_for(phrase, story), story


def _opened(rng: Random, story: Story) -> str:
    """Let a story begin by naming what was asked for: it reads as an answer, and it is what a model learns first."""
    opening = pick(rng, requests.OPENINGS)
    return f"{opening.format(c=article(story.hero.name), t=article(story.thing.name))} {story.text}"


def _friends(hero: Creature | None, thing: Thing | None) -> list[Creature]:
    """List who can be named beside the hero; no reserved pair is made by the way."""
    others = [creature for creature in creatures.CREATURES if creature is not hero]
    return [c for c in others if thing is None or not stories.held_out(c, thing)]


def _ask_for(phrase: str, story: Story) -> str:
    c, t, d = story.hero.name, story.thing.name, story.friend.name
    return phrase.format(
        c=article(c),
        cn=c,
        t=article(t),
        tn=t,
        d=article(d),
        dn=d,
        name=story.slots["H"],
        place=story.slots["place"],
    )


def _questions(rng: Random, messages: list[Message], story: Story, count: int) -> None:
    """Ask `count` different questions about the story, facts more often than the rest."""
    asked: set[str] = set()
    said: set[str] = set()
    while len(asked) < count:
        kind = rng.random()
        ask = followups.fact if kind < 0.75 else followups.unsaid if kind < 0.87 else followups.retelling
        answered = ask(rng, story)
        if answered.question in asked or (answered.answer in said and answered.answer != followups.NOT_SAID):
            continue
        asked.add(answered.question)
        said.add(answered.answer)
        _say(messages, _casually(rng, answered.question), answered.answer)


def _casually(rng: Random, question: str) -> str:
    """Write a question as people type it, now and then without capital and mark."""
    drawn = rng.random()
    if drawn < 0.08 and question.startswith(("Wh", "How", "Make", "Tell", "And", "Go")):
        return question[0].lower() + question[1:].rstrip("?.")
    if drawn < 0.12 and question.startswith(("Wh", "How")):
        return "And " + question[0].lower() + question[1:]
    return question


def held_out_requests(n: int, seed: int) -> list[HeldOut]:
    """Draw `n` requests on held-out pairs and in held-out words, for the scorer."""
    rng = Random(1_000_003 * VERSION + 500_009 + seed)
    return [_held_out(rng) for _ in range(n)]


def _held_out(rng: Random) -> HeldOut:
    kind = rng.random()
    if kind < 0.85:
        story = tell(rng, Cast(), reserved=True)
        request = {"role": "user", "content": _ask_for(pick(rng, requests.RESERVED), story)}
        if kind < 0.45:
            return HeldOut("story", [request], {"names": [story.hero.name, story.thing.name]})
        answered = _short_answer(rng, story)
        told = {"role": "assistant", "content": _opened(rng, story)}
        messages = [request, told, {"role": "user", "content": answered.question}]
        return HeldOut("followup", messages, {"any_of": list(answered.any_of), "none_of": list(answered.none_of)})
    if kind < 0.90:
        asked, _ = smalltalk.unknown(rng, smalltalk.RESERVED_UNKNOWN)
        return HeldOut("unknown", [{"role": "user", "content": asked}], {"any_of": ["don't know"], "none_of": []})
    if kind < 0.95:
        asked = pick(rng, smalltalk.HELLO[0])
        return HeldOut("greeting", [{"role": "user", "content": asked}], {"any_of": ["hello", "hi"], "none_of": []})
    asked, said = smalltalk.count(rng)
    expect = {"any_of": [said.rstrip(".").lower()], "none_of": []}
    return HeldOut("count", [{"role": "user", "content": asked}], expect)


def _short_answer(rng: Random, story: Story) -> followups.Answered:
    """Draw a question whose key phrase is short, so that a right answer in other words still counts."""
    while True:
        answered = (followups.unsaid if rng.random() < 0.15 else followups.fact)(rng, story)
        if all(len(phrase) <= 40 for phrase in answered.any_of):
            return answered


def is_right(reply: str, expect: dict[str, list[str]]) -> bool:
    """Judge a reply by whole words: all of "names", one of "any_of" if there are any, none of "none_of"."""
    text = reply.lower()

    def holds(phrase: str) -> bool:
        return re.search(rf"(?<![a-z]){re.escape(phrase.lower())}(?![a-z])", text) is not None

    any_of = expect.get("any_of", [])
    return (
        all(holds(name) for name in expect.get("names", []))
        and (not any_of or any(holds(phrase) for phrase in any_of))
        and not any(holds(phrase) for phrase in expect.get("none_of", []))
    )


def words_of(text: str) -> list[str]:
    """Split a text into lower-case words; apostrophes and hyphens end a word."""
    return re.findall(r"[a-z]+", text.lower())


@cache
def vocabulary() -> frozenset[str]:
    """Collect every word that the generator can write, in the sense of `words_of`."""
    found = {"a", "an", "the", "yes", "no", "himself", "herself", "he", "him", "his", "she", "her", "little"}
    found |= set(words_of("After comes before count from to and legs which number what is can you please"))
    modules = (
        creatures,
        followups,
        memory,
        plots_in_brief,
        requests,
        smalltalk,
        stories,
        things,
        troubles,
        words,
        plot,
    )
    for module in modules:
        for name, value in vars(module).items():
            if name.lstrip("_").isupper():
                found.update(_words_in(value))
    return frozenset(found)


def _words_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield from words_of(re.sub(r"\{\w*\}", " ", value))
    elif isinstance(value, dict):
        yield from _words_in([*value.keys(), *value.values()])
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _words_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _words_in(getattr(value, field.name))
