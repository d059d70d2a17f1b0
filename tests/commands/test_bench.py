from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.commands.model import SPIN
from kiara_cli.core.lab import bench
from kiara_cli.core.runtime import machine

Kiara = Callable[..., Any]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure with little effort: what comes out is not looked at closely here."""
    monkeypatch.setattr(machine, "BLOCK", 1_000_000)
    monkeypatch.setattr(bench, "EFFORT", 1e8)
    monkeypatch.setattr(bench, "STREAMS", (1, 2))


@pytest.mark.parametrize("quantized", [False, True])
def test_json_holds_the_machine_and_every_measurement(kiara: Kiara, trained: Path, quantized: bool) -> None:
    words = ["train.batch_size=4"]  # of the measured step: bench takes model and tokenizer from the checkpoint alone
    if quantized:
        assert kiara("quantize", "--bits", "4", "--out", "small.pt", "quantize.tune_passes=0").status == 0
        words = ["small.pt", *words]
    ran = kiara("bench", *words, "--rounds", "1", "--json")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert found["machine"]["memory"] > 0
    assert set(found["machine"]["flops"]) == {"fp32", "bf16"}
    seen = [(one["what"], one["dtype"], one["streams"]) for one in found["measurements"]]
    assert seen == [
        ("training step", "fp32", 4),
        ("prefill", "fp32", 1),
        ("prefill", "bf16", 1),
        ("decoding", "fp32", 1),
        ("decoding", "bf16", 1),
        ("decoding", "int8", 1),
        ("decoding", "int4", 1),
        ("decoding", "fp32", 2),
    ]
    for one in found["measurements"]:
        assert one["tokens_per_second"] > 0
        assert one["how"].startswith(("PyTorch", "C"))
        assert one["fraction_of_peak"] == pytest.approx(one["tokens_per_second"] / one["floor"])


def test_a_person_sees_a_table_with_fractions(kiara: Kiara, trained: Path) -> None:
    ran = kiara("bench", "text", "--rounds", "1")
    assert ran.status == 0
    for word in ("This machine", "memory, reading", "training step", "fraction", "int4"):
        assert word in ran.out
    assert "decoding (fp32, bf16, int8, int4): C (" in ran.err or "because no C compiler" in ran.err


def test_a_shape_needs_no_checkpoint_and_goes_with_none(kiara: Kiara, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "both x and --shape m10" in kiara("bench", "x", "--shape", "m10").mistake
    assert "no checkpoint yet" in kiara("bench").mistake
    monkeypatch.setitem(bench.SHAPES, "m10", bench.ModelConfig(vocab_size=64, emb_dim=32, context_length=16))
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    found = json.loads(kiara("bench", "--shape", "m10", "--rounds", "1", "--json").out)
    assert found["model"] == "m10"
    assert os.environ["GOMP_SPINCOUNT"] == SPIN  # threads wait as they do when a person has a text written
