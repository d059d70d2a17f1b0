"""How well a model holds a conversation: the scorer behind `kiara eval --chat`.

In: a model that learned from `tales`. Out: shares of held-out requests that it met. The requests use pairs of
creature and thing, and ways of asking, that no training conversation holds.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.data.tales.corpus import HeldOut, held_out_requests, is_right, vocabulary, words_of
from kiara_cli.core.generate.engine import Engine
from kiara_cli.core.generate.text import Completion, stream_text
from kiara_cli.core.tokenizer.conversation import Template

TESTS = ("ends_properly", "known_words", "names_both", "repeats_nothing", "followup_right", "smalltalk_right")
LONGEST_REPLY = 240  # tokens; the longest tale takes about 200


@dataclass(frozen=True)
class Scored:
    """One request, the reply, and which tests it passed; a test that does not apply is left out."""

    request: HeldOut
    reply: str
    passed: dict[str, bool]


def score_chat(
    engine: Engine, template: Template, config: GenerateConfig, number: int, seed: int
) -> Iterator[Scored]:
    """Ask `number` held-out requests drawn by `seed`, sampling as `config` says, and score each reply."""
    known = vocabulary()
    for index, request in enumerate(held_out_requests(number, seed)):
        settings = dataclasses.replace(config, max_new_tokens=LONGEST_REPLY, seed=seed * 1_000_003 + index)
        ids = template.encode(request.messages)
        *_, done = stream_text(engine, template.tokenizer, ids, settings, template.stop_ids)
        assert isinstance(done, Completion)
        yield Scored(request, done.text, judge(request, done, known))


def judge(request: HeldOut, done: Completion, known: frozenset[str]) -> dict[str, bool]:
    """Apply every test that suits the kind of request."""
    reply = done.text.strip()
    passed = {
        "ends_properly": done.finish_reason == "stop" and reply.endswith((".", "!", "?", '"')),
        "known_words": all(word in known for word in words_of(reply)),
    }
    if request.kind == "story":
        said = set(words_of(reply))
        passed["names_both"] = all(set(words_of(name)) <= said for name in request.expect["names"])
        sentences = [part.strip() for part in re.split(r"(?<=[.!?])[\"']?\s+", reply) if part.strip()]
        passed["repeats_nothing"] = len(sentences) == len(set(sentences))
    else:
        test = "followup_right" if request.kind == "followup" else "smalltalk_right"
        passed[test] = is_right(reply, request.expect)
    return passed


def shares(scored: list[Scored]) -> dict[str, float]:
    """Return for each of TESTS, in that order, the share of replies, of those it applies to, that passed."""
    return {name: _mean([one.passed[name] for one in scored if name in one.passed]) for name in TESTS}


def _mean(values: list[bool]) -> float:
    return sum(values) / len(values) if values else float("nan")
