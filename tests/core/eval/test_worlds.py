"""Talks with a model: its own replies stand in them, many are held at once, and shares have intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.data.worlds.judge import Judge
from kiara_cli.core.data.worlds.read import read_world
from kiara_cli.core.eval.worlds import LiveTalk, ScoredTurn, Share, score_world, share, shares, wrong_talks
from kiara_cli.core.generate.engine import Options
from kiara_cli.core.generate.text import make_engine
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.conversation import template_for

EXAMPLES = Path(__file__).parents[3] / "docs/examples"


def talk_with(judge: Judge, index: int, wrong: float = 0.0) -> list[ScoredTurn]:
    """Hold a talk in which each reply is the expected one, but for a share of them."""
    talk, rng, scored = LiveTalk(judge, index, seed=1), Random(index), []
    for _ in range(10):
        turn = talk.ask()
        reply = "I sell the moon." if rng.random() < wrong else turn.reply
        scored.append(talk.answered(f" {reply}\n", ended=True))
    assert [message["content"] for message in talk.messages[1::2]] == [one.reply for one in scored]
    return scored


def test_a_talk_in_which_all_is_right_scores_so_and_each_wrong_reply_counts_for_its_turn() -> None:
    judge = Judge(read_world(EXAMPLES / "shop.yaml"))
    right = [one for index in range(20) for one in talk_with(judge, index)]
    assert share(right) == Share(200, 200)
    mixed = [one for index in range(20) for one in talk_with(judge, index, wrong=0.3)]
    wrong = [one for one in mixed if one.reply == "I sell the moon."]
    assert 20 < len(wrong) < 100
    assert [one.fault is not None for one in mixed] == [one.reply == "I sell the moon." for one in mixed]
    by_turn = shares(mixed, lambda one: one.number)
    assert list(by_turn) == list(range(1, 11))
    assert {found.number for found in by_turn.values()} == {20}
    assert sum(found.right for found in by_turn.values()) == 200 - len(wrong)
    assert sum(found.number for found in shares(mixed, lambda one: one.kind).values()) == 200
    shown = wrong_talks(mixed, 2)
    assert [len(talk) for talk in shown] == [10, 10]
    assert all(any(one.fault for one in talk) for talk in shown)
    assert {one.learned for one in mixed} == {True, False}  # the shop holds no wording of thanks out
    assert {one.kind for one in mixed if one.learned} == {"thanks"}


def test_a_reply_that_was_cut_off_is_wrong() -> None:
    talk = LiveTalk(Judge(read_world(EXAMPLES / "shop.yaml")), 0, seed=1)
    turn = talk.ask()
    assert talk.answered(turn.reply, ended=False).fault == "does not end"


@pytest.mark.parametrize(
    ("right", "number", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (90, 100, 0.8256, 0.9448)]
)
def test_intervals_are_those_of_wilson(right: int, number: int, low: float, high: float) -> None:
    assert Share(right, number).interval == pytest.approx((low, high), abs=1e-3)
    assert Share(right, number).record()["right"] == right / number


def test_talks_held_together_are_those_held_one_by_one() -> None:
    torch.manual_seed(0)
    tokenizer = BPETokenizer([bytes([byte]) for byte in range(256)])
    config = ModelConfig(vocab_size=320, context_length=128, emb_dim=16, n_heads=2, n_layers=1)
    model, world = Transformer(config), read_world(EXAMPLES / "shop.yaml")
    template = template_for(tokenizer, True)
    settings = GenerateConfig(temperature=0.8, max_new_tokens=3)
    asked: list[list[str]] = []

    def read(messages: Sequence[Message]) -> list[int]:
        asked.append([message["content"] for message in messages])
        return template.encode(messages)[-64:]

    def held(streams: int, seed: int = 7) -> list[ScoredTurn]:
        engine = make_engine(model, tokenizer, Runtime(torch.device("cpu"), "fp32", 1), Options(streams=streams))
        found = score_world(engine, template, settings, world, 3, seed, read)
        return sorted(found, key=lambda one: (one.talk, one.number))

    together = held(16)
    assert [(one.talk, one.number) for one in together] == [(t, n) for t in range(3) for n in range(1, 11)]
    assert together == held(1)
    assert together != held(16, seed=8)
    assert all(dataclasses.asdict(one)["fault"] for one in together)
    ends = [said for said in asked if len(said) == 19]
    assert len(ends) == 9  # the whole talk stands before its last reply, with what the model wrote in it
    assert ends[0][1::2] == [one.reply or "…" for one in together if one.talk == 0][:9]
