from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.data.batches import IGNORE, Batch
from kiara_cli.core.loss import ROWS, Objective, Unembed, batch_loss, cross_entropy
from kiara_cli.core.model.transformer import Transformer


def by(head: Tensor) -> Unembed:
    return lambda states: states @ head.T


@pytest.fixture
def batch() -> Batch:
    inputs, targets = torch.randint(64, (3, 16)), torch.randint(64, (3, 16))
    targets[:, ::3] = IGNORE
    return Batch.of(inputs, targets)


def test_the_sum_over_targets_is_the_mean_times_their_number(tiny: ModelConfig, batch) -> None:
    model = Transformer(tiny)
    with torch.no_grad():
        objective, nats = batch_loss(model, batch)
        mean = cross_entropy(model(batch.inputs), batch.targets)
    assert float(objective) == pytest.approx(float(mean) * batch.target_count, rel=1e-5)
    assert float(nats) == float(objective)


def test_a_uniform_model_loses_the_log_of_its_vocabulary() -> None:
    states, head = torch.zeros(5, 8), torch.zeros(64, 8)
    objective, nats = Objective()(states, by(head), torch.arange(5))
    assert float(objective) == float(nats) == pytest.approx(5 * math.log(64), rel=1e-6)


def test_z_loss_adds_the_squared_log_of_the_softmaxs_sum_where_there_is_a_target() -> None:
    states, head, targets = torch.randn(6, 8), torch.randn(64, 8), torch.arange(6)
    targets[2] = IGNORE
    plain, _ = Objective()(states, by(head), targets)
    objective, nats = Objective(z_loss=0.1)(states, by(head), targets)
    squares = sum(math.log(float((states[i] @ head.T).exp().sum())) ** 2 for i in range(6) if i != 2)
    assert float(objective - plain) == pytest.approx(0.1 * squares, rel=1e-4)
    assert float(nats) == pytest.approx(float(plain))


def test_label_smoothing_pulls_towards_all_tokens_and_leaves_the_measure_plain() -> None:
    states, head, targets = torch.randn(6, 8), torch.randn(64, 8), torch.arange(6)
    plain, _ = Objective()(states, by(head), targets)
    objective, nats = Objective(smoothing=0.2)(states, by(head), targets)
    logs = (states @ head.T).log_softmax(-1)
    expected = -(0.8 * logs[torch.arange(6), targets] + 0.2 * logs.mean(-1)).sum()
    assert float(objective) == pytest.approx(float(expected), rel=1e-5)
    assert float(nats) == pytest.approx(float(plain))


@pytest.mark.parametrize("chunk", [1, 7, 47, 48, 1000])
def test_chunks_give_the_same_loss_and_gradients(tiny: ModelConfig, batch, chunk: int) -> None:
    results = []
    for size in (None, chunk):
        torch.manual_seed(0)
        model = Transformer(tiny)
        objective, nats = batch_loss(model, batch, Objective(z_loss=0.01, smoothing=0.1, chunk=size))
        objective.backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        results.append((objective.item(), nats.item(), gradients))
    assert results[0][:2] == pytest.approx(results[1][:2], rel=1e-6)
    torch.testing.assert_close(results[0][2], results[1][2], rtol=1e-4, atol=1e-5)


def kept_bytes(chunk: int | None) -> int:
    """Return what autograd holds for the backward pass of scoring 512 positions over 5000 tokens."""
    states, head = torch.randn(512, 8, requires_grad=True), torch.randn(5000, 8, requires_grad=True)
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sums = Objective(chunk=chunk)(states, by(head), torch.randint(5000, (512,)))
    assert sums[0].requires_grad
    return sum(kept.values())


def test_chunks_hold_no_logits() -> None:
    assert kept_bytes(None) > 512 * 5000 * 4
    assert kept_bytes(64) < 0.05 * kept_bytes(None)


def test_a_batch_without_any_target_pulls_on_nothing(tiny: ModelConfig) -> None:
    model, inputs = Transformer(tiny), torch.randint(64, (2, 8))
    for objective in (Objective(), Objective(z_loss=0.1, smoothing=0.1), Objective(chunk=4)):
        objective, nats = batch_loss(model, Batch.of(inputs, torch.full_like(inputs, IGNORE)), objective)
        objective.backward()
        assert objective.item() == nats.item() == 0.0
        assert all(float(p.grad.abs().sum()) == 0 for p in model.parameters() if p.grad is not None)


def test_scored_rows_come_in_round_numbers_and_the_rest_counts_for_nothing(tiny: ModelConfig) -> None:
    seen: list[int] = []

    class Noting(Objective):
        def __call__(self, states: Tensor, unembed: Unembed, targets: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(len(states))
            return super().__call__(states, unembed, targets)

    net = Transformer(tiny)
    inputs = torch.randint(1, 64, (6, 16))
    targets = torch.where(torch.rand(6, 16) < 0.8, torch.randint(1, 64, (6, 16)), IGNORE)
    objective, nats = batch_loss(net, Batch.of(inputs, targets), Noting(z_loss=0.1))
    assert seen[0] % ROWS == 0
    expected = Objective(z_loss=0.1)(net.states(inputs).flatten(0, 1), net.unembed, targets.flatten())
    assert torch.allclose(torch.stack([objective, nats]), torch.stack(expected), rtol=1e-5)
