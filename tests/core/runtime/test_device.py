"""Every `auto` is decided, and what cannot be honoured is said."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from kiara_cli.config.schema import RuntimeConfig
from kiara_cli.core.runtime import device, threads
from kiara_cli.core.runtime.device import Runtime, decide, matrix_rate, planning_rate, seed_everything
from kiara_cli.errors import KiaraError


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(1)


@pytest.fixture
def _no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("_no_accelerator")
def test_auto_is_the_cpu_where_there_is_nothing_better() -> None:
    runtime = decide(RuntimeConfig(threads=1))
    assert runtime.device == torch.device("cpu")
    assert runtime.dtype in {"fp32", "bf16"}


@pytest.mark.usefixtures("_no_accelerator")
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_the_users_mistake(device: str) -> None:
    with pytest.raises(KiaraError, match=rf"runtime.device={device}: .* has no {device}; use runtime.device=auto"):
        decide(RuntimeConfig(device=device, threads=1))  # type: ignore[arg-type]


def test_a_cpu_run_leaves_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched() -> bool:
        raise AssertionError("CUDA was asked")

    monkeypatch.setattr(torch.cuda, "is_available", touched)
    assert decide(RuntimeConfig(device="cpu", dtype="fp32", threads=1)).device.type == "cpu"


def test_threads_are_honoured() -> None:
    assert decide(RuntimeConfig(device="cpu", dtype="fp32", threads=2)).threads == 2
    assert torch.get_num_threads() == 2


def test_openmps_own_number_of_threads_is_a_limit_and_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kiara")
    monkeypatch.setattr(device, "OPENMP", 1)
    monkeypatch.setattr(threads, "physical_cores", lambda *_: 4)
    assert decide(RuntimeConfig(device="cpu", dtype="fp32")).threads == torch.get_num_threads() == 1
    assert caplog.messages == ["1 thread: OMP_NUM_THREADS or the program that Kiara runs in allows no more."]


@pytest.mark.parametrize("deterministic", [True, False])
def test_determinism_is_switched_as_asked(deterministic: bool) -> None:
    decide(RuntimeConfig(device="cpu", dtype="fp32", threads=1, deterministic=deterministic))
    assert torch.are_deterministic_algorithms_enabled() == deterministic


@pytest.mark.parametrize(("dtype", "computed"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_run_in_the_precision_asked_for(dtype: str, computed: torch.dtype) -> None:
    a = torch.ones(4, 4)
    with Runtime(torch.device("cpu"), dtype, 1).precision():
        assert (a @ a).dtype == computed
    assert (a @ a).dtype == torch.float32


def test_the_same_seed_draws_the_same_numbers() -> None:
    seed_everything(5)
    first = torch.rand(3)
    seed_everything(5)
    assert torch.equal(first, torch.rand(3))


def test_the_rate_of_products_is_the_best_of_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([2e9, 1e9, 3e9])
    monkeypatch.setattr(device, "_rates", {})
    monkeypatch.setattr(device, "_measured_rate", lambda *what: next(found))
    cpu = torch.device("cpu")
    assert matrix_rate(cpu, "fp32") == matrix_rate(cpu, "fp32") == 2e9  # not measured a second time
    assert matrix_rate(cpu, "fp32", again=True) == 2e9
    assert matrix_rate(cpu, "fp32", again=True) == 3e9


def test_a_busy_machine_does_not_make_a_training_look_long(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(where: torch.device, dtype: torch.dtype, size: int) -> float:
        return 1e9 / (45 if torch.get_num_threads() > 1 else 1)  # several threads wait for one that has lost its core

    monkeypatch.setattr(device, "_measured_rate", measured)
    monkeypatch.setattr(device, "_rates", {})
    torch.set_num_threads(2)
    assert planning_rate(Runtime(torch.device("cpu"), "fp32", 2)) == 2e9
    assert torch.get_num_threads() == 2
