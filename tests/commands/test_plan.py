from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kiara_cli.console.output import amount
from kiara_cli.core.lab.planning import make
from kiara_cli.core.lab.planning.devices import DEVICES
from tests.commands.conftest import TEXT, TINY, Kiara

SMALL = (
    "model.n_layers=2", "model.emb_dim=32", "model.n_heads=2", "model.context_length=32", "tokenizer.kind=char",
    "train.batch_size=4", "eval.batch_size=1", "train.max_steps=10",
)  # fmt: skip
MISTAKES = [
    (
        ["--device", "h10"],
        r"--device h10 is not known; did you mean h100\?; choose among: this, h200, .*m4-max",
    ),
    (["--devices", "0"], r"--devices 0: a training needs at least one; give 1 or more"),
    (
        ["train.max_steps=null", "train.max_epochs=2", "nowhere.txt"],
        r"train\.max_epochs=2 of data that is not here: no",
    ),
    (["--device", "h100", "--measure"], r"--measure takes real updates on this machine; leave out --device"),
]


@pytest.mark.parametrize(("words", "mistake"), MISTAKES, ids=["device", "devices", "data", "measure"])
def test_what_cannot_be_planned_is_one_line(kiara: Kiara, words: list[str], mistake: str) -> None:
    assert re.search(mistake, kiara("plan", *SMALL, *words).mistake)


def test_a_plan_says_of_every_number_where_it_comes_from_and_leaves_nothing(
    kiara: Kiara, nothing_behind: Callable[[], None]
) -> None:
    ran = kiara("plan", *SMALL, "nowhere.txt", "--watts", "100", "--price-per-hour", "3.6", "--json")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert found["assumed"] == "no data yet: 97 ids, and as many tokens as the steps want"
    assert found["tokens"] == 10 * 4 * 32
    assert found["joules"] == pytest.approx(100 * found["seconds"])
    assert found["dollars"] == pytest.approx(found["seconds"] / 1000)
    assert found["memory_bytes"] == sum(found["memory"].values())
    assert all(figure["basis"] for figure in found["figures"])
    by_name = {figure["name"]: figure["value"] for figure in found["figures"]}
    parts = [value for name, value in by_name.items() if name.startswith("parameters, ")]
    assert found["parameters"] == by_name["parameters"] == sum(parts)
    nothing_behind()


def test_a_plan_a_dry_run_and_the_start_of_a_run_agree(kiara: Kiara, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("text.txt").write_text(TEXT)
    monkeypatch.setattr(make, "SHORT", 0.0)  # such a small one would begin without an estimate
    started = kiara("train", *TINY, "text.txt", "eval.batch_size=1")
    assert started.status == 0, started.err
    dry = json.loads(kiara("train", *TINY, "text.txt", "eval.batch_size=1", "--dry-run", "--json").out)
    planned = json.loads(kiara("plan", *TINY, "text.txt", "eval.batch_size=1", "--json").out)
    assert planned["assumed"] is None  # the data is prepared by now
    for key in ("parameters", "steps", "tokens", "flops"):
        assert planned[key] == dry[key], key
    for memory in (planned["memory"], dry["memory"]):  # the process itself has grown between the two
        memory.pop("process")
    assert planned["memory"] == dry["memory"]
    work = re.escape(amount(planned["flops"], "FLOP"))  # memory is the process's, too: by now it may be large
    assert re.search(rf"work +{work}, about \S+ [MG]B of memory and \d s without evaluations", started.err), (
        started.err
    )


def test_what_does_not_fit_says_by_how_much_and_what_would(kiara: Kiara, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEVICES, "4090", dataclasses.replace(DEVICES["4090"], memory=0.61e9))
    ran = kiara("plan", *SMALL, "train.batch_size=256", "model.n_layers=1", "--device", "4090", "nowhere.txt")
    assert ran.status == 2
    assert "memory, at most" in ran.out
    last = ran.err.splitlines()[-1]
    assert re.match(r"error: it does not fit: \S+ MB on GeForce RTX 4090 with 610 MB, \S+ MB too much; would ", last)
    assert "train.batch_size=1 with the accumulation that keeps the batch" in last


def test_measuring_takes_real_updates(kiara: Kiara, nothing_behind: Callable[[], None]) -> None:
    ran = kiara("plan", *SMALL, "nowhere.txt", "--measure", "--json")
    assert ran.status == 0, ran.err
    figures = {figure["name"]: figure for figure in json.loads(ran.out)["figures"]}
    assert figures["an update"]["basis"] == "measured: real updates of this shape"
    nothing_behind()


def test_the_page_has_every_device_with_its_numbers() -> None:
    page = (Path(__file__).parents[2] / "docs/plan.md").read_text(encoding="utf-8")
    for name, device in DEVICES.items():
        half = device.flops.get("bf16", device.flops["fp16"]) / 1e12
        price = "" if device.price is None else f"{device.price:g}"
        row = (
            f"| {name} | {device.name} | {half:g} TFLOP/s | {device.flops['fp32'] / 1e12:g} "
            f"| {device.memory / 1e9:g} GB | {device.bandwidth / 1e9:g} GB/s "
            f"| {device.link / 1e9:g} / {device.network / 1e9:g} GB/s "
            f"| {device.watts:g} | {price} |"
        )
        assert row in page
