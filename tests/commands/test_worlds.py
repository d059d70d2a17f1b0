"""A small world from its file to a model that is scored on it, with the commands of the page about it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Kiara = Callable[..., Any]
DOCS = Path(__file__).parents[2] / "docs"
SMALL = (
    "data.corpus_bytes=400000", "model.context_length=192", "model.emb_dim=64", "model.n_heads=2", "model.n_layers=2",
    "tokenizer.vocab_size=400", "train.batch_size=8", "train.max_steps=250", "train.eval_interval=250",
    "train.checkpoint_interval=250", "eval.sample_tokens=0", "eval.max_tokens=4000",
)  # fmt: skip


@pytest.mark.slow
def test_the_shop_of_the_page_is_learned_and_scored(kiara: Kiara) -> None:
    page = (DOCS / "worlds.md").read_text(encoding="utf-8")
    lines = re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)[0].splitlines()
    assert lines == ["kiara train docs/examples/shop.yaml", "kiara eval --chat", "kiara chat"]
    shutil.copytree(DOCS, "docs")
    assert kiara("train", "docs/examples/shop.yaml", *SMALL).status == 0
    ran = kiara("eval", "--chat", "--talks", "12", "--json")
    assert ran.status == 0, ran.err
    greedy, sampled = map(json.loads, ran.out.splitlines())
    assert (greedy["temperature"], sampled["temperature"]) == (0.0, 0.8)
    assert greedy["right"] > 0.6  # 0.8 measured; nothing learned is right less than once in ten
    assert greedy["by_kind"]["price"]["right"] > 0.8
    assert {name: found["n"] for name, found in greedy["by_turn"].items()} == {str(n): 12 for n in range(1, 11)}
    assert greedy["low"] < greedy["right"] < greedy["high"]
    shown = kiara("eval", "--chat", "--talks", "3", "--show-wrong", "2").out
    assert re.search(r"^ all +\d+\.\d% +\d+–\d+ of 30 ", shown, flags=re.MULTILINE)
    assert "typed" in shown
    replies = kiara("chat", "generate.temperature=0", stdin="How much is an egg?\n/exit\n")
    assert "one coin" in replies.out


def test_a_mistake_in_a_world_is_one_line_and_a_config_is_no_world(kiara: Kiara) -> None:
    text = (DOCS / "examples/shop.yaml").read_text(encoding="utf-8")
    Path("bad.yaml").write_text(text.replace("{g.price}", "{g.prize}", 1), encoding="utf-8")
    line = kiara("train", "bad.yaml").mistake
    assert re.search(r"bad\.yaml, line \d+: \{g\.prize\}: no column 'prize' in 'goods'; did you mean 'price'\?", line)


def test_the_yaml_of_the_page_is_a_world() -> None:
    from kiara_cli.core.data.worlds.read import read_world

    (block,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "worlds.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    Path("world.yaml").write_text(block, encoding="utf-8")
    assert [talk.name for talk in read_world(Path("world.yaml")).talks] == ["price", "name", "thanks"]
