"""How well a model talks about a small world: whole talks, each turn on top of what the model itself has said.

In: a model that learned from a world's file. Out: for each turn of held-out talks what was wrong with its reply, and
shares of right replies with their intervals. Many talks are held at the same time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeAlias

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.data.worlds.judge import Judge
from kiara_cli.core.data.worlds.talks import LONGEST, Course, Turn
from kiara_cli.core.data.worlds.world import World
from kiara_cli.core.generate.engine import Engine, GenerationRequest
from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.generate.request import ActiveRequest
from kiara_cli.core.generate.text import Writing, make_engine, options_of
from kiara_cli.core.model.cache import position_bytes
from kiara_cli.core.runtime.device import DTYPES
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.conversation import Template

Read: TypeAlias = Callable[[Sequence[Message]], list[int]]
STREAMS = 64  # talks held at the same time, at least
Z = 1.96  # standard errors of a 95 % interval


@dataclass(frozen=True)
class ScoredTurn:
    """One turn: of which talk, its number in it, from 1; what was said and answered, and what is wrong with it."""

    talk: int
    number: int
    kind: str
    manner: str  # how it was typed
    learned: bool  # whether it was asked in words that are not held out, as there are no others
    user: str
    reply: str
    expected: str  # one of the right replies, where it is no story
    fault: str | None


@dataclass(frozen=True)
class Share:
    """How many of so many replies were right, with the ends of Wilson's 95 % interval."""

    right: int
    number: int

    @property
    def value(self) -> float:
        return self.right / max(1, self.number)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 1927: unlike the normal interval it stays within 0 and 1, and is no point where all were right."""
        n, p = max(1, self.number), self.value
        middle, width = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        return max(0.0, (middle - width) / (1 + Z * Z / n)), min(1.0, (middle + width) / (1 + Z * Z / n))

    def record(self) -> dict[str, float]:
        """Return it as JSON values."""
        low, high = self.interval
        return {"n": self.number, "right": self.value, "low": low, "high": high}


def engine_of(opened: Opened) -> Engine:
    """Make an engine that holds many talks at the same time and keeps what it has read of each."""
    options = options_of(opened.config)
    streams = max(options.streams, STREAMS)
    talk = opened.config.model.context_length * position_bytes(opened.config.model, DTYPES[opened.runtime.dtype])
    options = dataclasses.replace(options, streams=streams, prefix_bytes=max(options.prefix_bytes, streams * talk))
    return make_engine(opened.model, opened.tokenizer, opened.runtime, options)


class LiveTalk:
    """One talk with a model: what was said, and which reply is being written."""

    def __init__(self, judge: Judge, index: int, seed: int) -> None:
        self.judge, self.index, self.seed = judge, index, seed
        self.course = Course(judge.world, Random(f"{seed} {index}"), LONGEST, held_out=True)
        self.messages: list[Message] = []
        self.stories: list[str] = []
        self.number = 0

    def ask(self) -> Turn:
        """Say the next thing."""
        self.number += 1
        self.turn = self.course.next()
        self.messages.append({"role": "user", "content": self.turn.prompt})
        return self.turn

    def answered(self, reply: str, ended: bool) -> ScoredTurn:
        """Take a reply, which stays in the talk as it is, and score it; `ended` says that it came to its end."""
        turn, reply = self.turn, reply.strip()
        told = self.judge.stories.read(turn, reply) if turn.tells else None
        fault = self.judge.fault(turn, reply, told, self.stories) if ended else "does not end"
        wording = turn.exchange.held_out
        scored = ScoredTurn(
            self.index, self.number, kind_of(turn), turn.manner, turn.wording not in wording, turn.user, reply,
            turn.reply, fault,
        )  # fmt: skip
        if turn.tells:
            self.judge.stories.correct(turn.had, told, reply)
            self.stories.append(reply)
        self.messages[-1] = {"role": "user", "content": turn.user}  # passages stand before the newest question alone
        self.messages.append({"role": "assistant", "content": reply or "…"})
        return scored


def kind_of(turn: Turn) -> str:
    """Name what is asked; apart from it, what was not said and is asked all the same."""
    return turn.exchange.name if turn.known else f"{turn.exchange.name} (not said)"


def score_world(
    engine: Engine, template: Template, config: GenerateConfig, world: World, talks: int, seed: int, read: Read
) -> Iterator[ScoredTurn]:
    """Hold `talks` talks drawn by `seed`, sampling as `config` says, and score each reply as it ends."""
    judge = Judge(world)
    return hold(engine, template, config, (LiveTalk(judge, index, seed) for index in range(talks)), seed, read)


class Talk(Protocol):
    """A talk that can be held with others: what was said so far, and what is next."""

    index: int  # among the talks
    number: int  # of the turn, from 1
    messages: list[Message]

    def ask(self) -> object:
        """Say the next thing: append it to the messages."""

    def answered(self, reply: str, ended: bool) -> ScoredTurn:
        """Take the reply, append it, and score it."""


def hold(
    engine: Engine, template: Template, config: GenerateConfig, talks: Iterator[Talk], seed: int, read: Read
) -> Iterator[ScoredTurn]:
    """Hold talks of ten turns, as many at the same time as the engine has streams.

    `read` gives the ids that the model reads of a conversation: all, or as much as its context holds.
    """
    stop_ids = template.stop_ids
    open_: dict[int, tuple[Talk, ActiveRequest, Writing]] = {}

    def ask(talk: Talk) -> None:
        talk.ask()
        ids = read(talk.messages)
        settings = dataclasses.replace(config, seed=(seed * 1_000_003 + talk.index) * LONGEST + talk.number)
        request = engine.submit(GenerationRequest(ids, settings, stop_ids))
        open_[talk.index] = talk, request, Writing(engine, template.tokenizer, ids, settings, stop_ids)

    def begin() -> None:
        while len(open_) < engine.options.streams and (talk := next(talks, None)) is not None:
            ask(talk)

    begin()
    while open_:
        engine.step()
        for index, (talk, request, writing) in list(open_.items()):
            while request.events and writing.done is None:
                token = request.events.popleft()
                if token.error is not None:
                    raise token.error
                writing.push(token)
            if writing.done is not None:
                request.cancel()
                del open_[index]
                yield talk.answered(writing.done.text, writing.done.finish_reason == "stop")
                if talk.number < LONGEST:
                    ask(talk)
        begin()


def share(scored: Iterable[ScoredTurn]) -> Share:
    """Return the share of right replies."""
    faults = [one.fault for one in scored]
    return Share(faults.count(None), len(faults))


def shares(scored: Sequence[ScoredTurn], of: Callable[[ScoredTurn], str | int]) -> Mapping[str | int, Share]:
    """Return the share of right replies for each value of `of`, such as the turn's number, in order."""
    groups: dict[str | int, list[ScoredTurn]] = {}
    for one in scored:
        groups.setdefault(of(one), []).append(one)
    return {value: share(groups[value]) for value in sorted(groups, key=lambda value: (str(type(value)), value))}


def wrong_talks(scored: Sequence[ScoredTurn], number: int) -> list[list[ScoredTurn]]:
    """Return the first `number` talks with a wrong reply, whole."""
    wrong = sorted({one.talk for one in scored if one.fault is not None})[:number]
    return [sorted((one for one in scored if one.talk == talk), key=lambda one: one.number) for talk in wrong]
