"""Every `auto` is decided, and what cannot be honoured is said."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from kiara_cli.config.schema import RuntimeConfig
from kiara_cli.core.runtime import device, threads
from kiara_cli.core.runtime.device import (
    Runtime,
    decide,
    matrix_rate,
    not_strict,
    planning_rate,
    refusals_in_words,
    seed_everything,
)
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


@pytest.mark.parametrize(
    ("where", "trains", "deterministic", "strict"),
    [
        ("cuda", True, True, True),
        ("cuda", False, True, False),
        ("cuda", True, False, False),
        ("mps", True, True, False),
    ],
)
def test_on_other_devices_a_training_on_cuda_alone_is_held_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, where: str, trains: bool, deterministic: bool, strict: bool
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(device, "pick_device", lambda wanted: where)
    decide(RuntimeConfig(dtype="fp32", threads=1, deterministic=deterministic), trains)
    assert (torch.get_deterministic_debug_mode() == 2) == strict  # a warning would not make attention's gradient so
    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None) == (":4096:8" if strict else None)


def test_what_may_give_other_bits_is_refused_in_one_line_unless_it_is_allowed() -> None:
    decide(RuntimeConfig(device="cpu", dtype="fp32", threads=1))
    where, x = torch.tensor([0, 0]), torch.zeros(2)
    wanted = r"^runtime.deterministic=true: put_.*; set runtime.deterministic=false: "
    with pytest.raises(KiaraError, match=wanted), refusals_in_words():
        x.put_(where, torch.ones(2))
    with refusals_in_words(), not_strict():
        x.put_(where, torch.ones(2))
    assert torch.get_deterministic_debug_mode() == 2
    with pytest.raises(RuntimeError, match="size"), refusals_in_words():
        x + torch.ones(3)


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
