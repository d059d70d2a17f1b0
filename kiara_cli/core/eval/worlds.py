"""How well a model talks about a small world: whole talks, each turn on top of what the model itself has said.

In: a model that learned from a world's file. Out: for each turn of held-out talks whether its reply was right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.data.worlds.judge import is_right
from kiara_cli.core.data.worlds.talks import Turn, held_out_talks, recognised
from kiara_cli.core.data.worlds.world import World
from kiara_cli.core.generate.engine import Engine
from kiara_cli.core.generate.text import Completion, stream_text
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.conversation import Template

LONGEST_REPLY = 160  # tokens


@dataclass(frozen=True)
class ScoredTurn:
    """One turn: its number in the talk, from 1; what was said and answered; whether that was right."""

    talk: int
    number: int
    turn: Turn
    reply: str
    right: bool


def score_world(
    engine: Engine, template: Template, config: GenerateConfig, world: World, talks: int, seed: int, context: int
) -> Iterator[ScoredTurn]:
    """Hold `talks` talks drawn by `seed`, sampling as `config` says, and score each reply.

    The oldest turns are left out where a talk grows longer than the model's context.
    """
    for index, talk in enumerate(held_out_talks(world, talks, seed)):
        messages: list[Message] = []
        stories: dict[int, str] = {}  # what the model told, by the talk that it began
        for number, turn in enumerate(talk, 1):
            rows = dict(turn.had.rows)
            if (
                turn.had.talk.tells and turn.exchange is not turn.had.talk.opening
            ):  # asked about the model's own story
                rows |= {name: found[0] for name, found in recognised(world, turn.had, stories[id(turn.had)]).items()}
            messages.append({"role": "user", "content": turn.said(rows)})
            ids = template.encode(messages)
            while len(ids) + LONGEST_REPLY > context and len(messages) > 2:
                del messages[:2]
                ids = template.encode(messages)
            settings = dataclasses.replace(
                config, max_new_tokens=LONGEST_REPLY, seed=seed * 1_000_003 + index * 100 + number
            )
            *_, done = stream_text(engine, template.tokenizer, ids, settings, template.stop_ids)
            assert isinstance(done, Completion)
            reply = done.text.strip()
            messages.append({"role": "assistant", "content": reply or "…"})
            if turn.exchange is turn.had.talk.opening:
                stories[id(turn.had)] = reply
            right = done.finish_reason == "stop" and is_right(world, turn, reply, stories.get(id(turn.had), ""))
            yield ScoredTurn(index, number, turn, reply, right)


def by_turn(scored: Sequence[ScoredTurn]) -> dict[int, float]:
    """Return the share of right replies for each turn's number."""
    return {
        number: share([one for one in scored if one.number == number])
        for number in sorted({s.number for s in scored})
    }


def by_kind(scored: Sequence[ScoredTurn]) -> dict[str, float]:
    """Return the share of right replies for each exchange of the world."""
    names = sorted({one.turn.exchange.name for one in scored})
    return {name: share([one for one in scored if one.turn.exchange.name == name]) for name in names}


def share(scored: Sequence[ScoredTurn]) -> float:
    """Return the share of right replies."""
    return sum(one.right for one in scored) / max(1, len(scored))
