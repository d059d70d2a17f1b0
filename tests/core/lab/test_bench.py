from __future__ import annotations

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import Config
from kiara_cli.core.generate.engine import Engine
from kiara_cli.core.lab.bench import Bench
from kiara_cli.core.lab.speed import decoding, prefill
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.runtime.machine import Peaks

RUNTIME = Runtime(torch.device("cpu"), "fp32", 1)
PEAKS = Peaks("a processor", 1, {"fp32": 1e9, "bf16": 4e9}, 1e8)


def test_floors_are_counted_from_the_machines_peaks(tiny: ModelConfig) -> None:
    model = Transformer(tiny).eval()
    work = Bench(model, Config(), RUNTIME, rounds=1)
    engine = Engine(model, RUNTIME)
    one, many = (work._decoding(PEAKS, engine, "fp32", streams) for streams in (1, 16))
    read = 4 * (sum(p.numel() for p in model.parameters()) + model.rotary.table.numel())  # the head is the embedding
    assert one.floor == pytest.approx(1e8 / read)
    assert many.floor == pytest.approx(16 / max(read / 1e8, 16 * work.count.forward_flops / 1e9))
    assert work._training(PEAKS).floor == pytest.approx(1e9 / work.count.training_flops)


def test_measuring_leaves_the_weights_as_they_were(tiny: ModelConfig) -> None:
    model = Transformer(tiny).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    work = Bench(model, Config(), RUNTIME, rounds=1)
    work._training(PEAKS)
    assert work._quantized(4) is not None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_engine_is_measured_even_where_little_fits(tiny: ModelConfig) -> None:
    engine = Engine(Transformer(tiny), RUNTIME)
    assert decoding(engine, rounds=0) > 0
    assert decoding(engine, 3, rounds=0) > 0
    assert prefill(engine, 8, rounds=0) > 0
    assert not engine.busy
