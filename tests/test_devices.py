"""The whole of Kiara on devices that this machine does not have: see support/pretend.py."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pretend as pretend_module
import pytest
import torch
from pretend import Elsewhere, pretend
from torch import Tensor

from kiara_cli.app import main
from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import GenerateConfig, TrainConfig
from kiara_cli.core.data.batches import IGNORE, Batch
from kiara_cli.core.eval.lengths import Lengths
from kiara_cli.core.eval.metrics import loader_metrics
from kiara_cli.core.generate.embed import embed
from kiara_cli.core.generate.engine import Engine, GenerationRequest, Options
from kiara_cli.core.loss import Objective, batch_loss
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize import gptq
from kiara_cli.core.quantize.apply import quantize
from kiara_cli.core.quantize.calibrate import batches_of
from kiara_cli.core.quantize.scheme import Scheme
from kiara_cli.core.quantize.tune import tune
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.train.average import Average
from kiara_cli.core.train.numerics import first_nonfinite
from kiara_cli.core.train.optimizer import OPTIMIZERS, make_optimizer

CPU = torch.device("cpu")


@pytest.fixture(params=["cuda", "mps"])  # the first has no CPU memory, the second no float64 either
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    with pretend(request.param) as where:
        yield where


def small() -> ModelConfig:
    """Each operation takes a hundred times as long here as elsewhere."""
    return ModelConfig(vocab_size=64, context_length=16, emb_dim=16, n_heads=2, n_layers=1, hidden_dim=32)


def model(config: ModelConfig, device: torch.device = CPU) -> Transformer:
    torch.manual_seed(0)
    return Transformer(config).to(device)


def numbers(tensor: Tensor) -> Tensor:
    return tensor.inner if isinstance(tensor, Elsewhere) else tensor


def batches(count: int) -> list[Batch]:
    """Return rows of two segments each, with some positions that nothing is asked of."""
    out = []
    for ids in torch.randint(64, (count, 2, 9), generator=torch.Generator().manual_seed(0)):
        targets = ids[:, 1:].clone()
        targets[:, 3] = IGNORE
        out.append(Batch.of(ids[:, :-1], targets, (torch.arange(8) > 3).long().expand(2, 8)))
    return out


def test_the_pretended_device_refuses_what_a_real_one_would(device: torch.device) -> None:
    there, here = torch.ones(2, 3, device=device), torch.ones(3)
    assert there.device == device
    assert (there * torch.tensor(2.0) + there.sum()).cpu().tolist() == [[8.0] * 3] * 2
    for mixed in (lambda: there + here, lambda: there @ here, lambda: torch.cat([there[0], here])):
        with pytest.raises(RuntimeError, match="CPU"):
            mixed()
    with pytest.raises(RuntimeError, match="CPU"):
        there[[0, 1]] = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="random"):
        torch.rand(3, device=device)
    with pytest.raises(RuntimeError):
        there.data_ptr()
    if device.type == "mps":
        with pytest.raises(TypeError, match="float64"):
            there.double()


def learn(config: ModelConfig, train: TrainConfig, objective: Objective, device: torch.device) -> list[float]:
    """Return the loss of three updates, and then of the weights' average."""
    net = model(config, device)
    optimizer, average = make_optimizer(net, train), Average(net, 0.9)
    batch, losses = batches(1)[0].to(device), []
    for step in range(3):
        loss, _ = batch_loss(net, batch, objective)
        loss.backward()  # type: ignore[no-untyped-call]
        assert first_nonfinite(net).startswith("none")
        optimizer.step()
        optimizer.zero_grad()
        average.update(step)
        losses.append(loss.item())
    with average.in_place():
        return [*losses, batch_loss(net, batch, objective)[0].item()]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_trains_on_any_device(tiny: ModelConfig, device: torch.device, optimizer: Any) -> None:
    train = TrainConfig(optimizer=optimizer)
    objective = Objective(z_loss=1e-4, smoothing=0.1, chunk=5 if optimizer == "adamw" else None)
    found, expected = (learn(tiny, train, objective, where) for where in (device, CPU))
    assert found == pytest.approx(expected, rel=1e-5)


def test_every_model_computes_on_any_device(every_model: list[ModelConfig], device: torch.device) -> None:
    ids = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(0))
    for config in every_model[::11]:
        with torch.no_grad():
            found, expected = (numbers(model(config, where)(ids.to(where))) for where in (device, CPU))
        assert torch.allclose(found, expected, atol=1e-5), config


GREEDY = GenerateConfig(max_new_tokens=13, temperature=0)
MANNERS = [
    GenerateConfig(max_new_tokens=13, seed=1),
    GenerateConfig(max_new_tokens=13, seed=2, top_k=5, top_p=0.9, min_p=0.01, temperature=1.5),
    GenerateConfig(max_new_tokens=13, seed=3, repetition_penalty=1.3),
    GenerateConfig(max_new_tokens=13, seed=4, frequency_penalty=0.5, presence_penalty=0.5, no_repeat_ngram=2),
    dataclasses.replace(GREEDY, speculate=4),
]


def written(net: Transformer, options: Options, dtype: Any = "fp32") -> list[list[int]]:
    """Return what comes of several requests at once; with prefixes twice, so that the second finds the first's."""
    engine = Engine(net, Runtime(net.device, dtype, 1), options=options)
    out = []
    for _ in range(2 if options.prefix_bytes else 1):
        asked = [
            GenerationRequest([1, 2, 3, 1, 2], manner, frozenset({7, 9}), {5: 2.0, 7: -1.0}, logprobs=3)
            for manner in MANNERS
        ]
        requests = [engine.submit(each) for each in asked]
        while engine.busy:
            engine.step()
        out += [request.ids for request in requests]
    return out


@pytest.mark.parametrize(
    "options",
    [
        Options(prefix_bytes=1 << 20),
        Options(cache=False),
        Options(fast=False, streams=2),
        Options(cache_dtype="int8", streams=2),
    ],
    ids=str,
)
def test_a_seed_writes_the_same_on_any_device(device: torch.device, options: Options) -> None:
    found, expected = (written(model(small(), where), options) for where in (device, CPU))
    assert found == expected


def test_bf16_writes_on_any_device(device: torch.device) -> None:
    assert len(written(model(small(), device), Options(prefix_bytes=1 << 20), "bf16")) == 2 * len(MANNERS)


def test_a_text_becomes_a_vector_and_held_out_text_is_measured_on_any_device(
    tiny: ModelConfig, device: torch.device
) -> None:
    found = []
    for where in (device, CPU):
        net, runtime = model(tiny, where), Runtime(where, "fp32", 1)
        lengths = Lengths(torch.ones(64, dtype=torch.int64), torch.zeros(64, dtype=torch.bool))
        measured = loader_metrics(net, batches(4), lengths, runtime)
        found.append((*embed(Engine(net, runtime), [1, 2, 3]), measured.loss, measured.accuracy, measured.bytes))
    assert found[0] == pytest.approx(found[1], abs=1e-5)


@pytest.mark.parametrize(("bits", "method", "tied"), [(8, "rtn", False), (8, "gptq", True), (4, "gptq", False)])
def test_models_are_quantized_and_tuned_on_any_device(
    device: torch.device, bits: int, method: str, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gptq, "SWEEPS", 1)
    text = torch.randint(64, (300,), generator=torch.Generator().manual_seed(0)).numpy()
    found = []
    for where in (device, CPU):
        full = model(dataclasses.replace(small(), tied_head=tied), where)
        net, calibration = copy.deepcopy(full), batches_of(text, {}, 16, 256)
        errors = [rounded.error for rounded in quantize(net, Scheme(bits, method, 16, bits, bits), calibration)]
        tune(net, full, calibration, 1)
        assert {tensor.device for tensor in net.state_dict().values()} == {where}
        found.append((errors, written(net, Options())))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)
    assert found[0][1] == found[1][1]


TINY = (
    "tokenizer.kind=char model.context_length=16 model.emb_dim=32 model.n_heads=4 model.n_layers=1 train.max_steps=2"
)
FAST = "train.batch_size=4 train.log_interval=1 train.eval_interval=2 eval.sample_tokens=4 runtime.dtype=fp32"


REFUSED = {  # what PyTorch on CUDA has no repeatable kernels for, as use_deterministic_algorithms says
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool3d", "bincount", "ctc_loss", "cumsum", "embedding_bag",
    "fractional_max_pool2d", "grid_sampler_2d", "histc", "kthvalue", "max_unpool2d", "median", "nll_loss2d_forward",
    "put", "put_", "reflection_pad1d", "upsample_linear1d",
}  # fmt: skip


def test_commands_train_measure_and_write_on_another_device(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    strict: set[str] = set()  # operations where what may give other bits each time is refused
    compute = pretend_module.run

    def seen(func: Any, *about: Any) -> Any:
        if torch.get_deterministic_debug_mode() == 2:
            strict.add(func.__name__.split(".")[0])
        return compute(func, *about)

    monkeypatch.setattr(pretend_module, "run", seen)
    Path("text.txt").write_text("the cat sat on the mat and the dog sat on the log.\n" * 40)
    lines = [
        f"train text.txt --name a {TINY} {FAST} train.max_steps=2",
        f"train --resume --name a train.max_steps=3 {FAST}",
        f"eval a {FAST}",
        f"generate a --prompt the --max-new-tokens 5 {FAST}",
    ]
    for line in lines:
        with pretend("cuda"), pytest.raises(SystemExit) as stop:
            main(line.split())
        assert stop.value.code == 0, (line, capsys.readouterr().err)
    assert {"embedding_dense_backward", "nll_loss_backward"} <= strict
    assert not strict & REFUSED
