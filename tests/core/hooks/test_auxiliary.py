from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.data.batches import IGNORE, Batch
from kiara_cli.core.hooks import auxiliary
from kiara_cli.core.hooks.context import LossContext, Setting
from kiara_cli.core.hooks.registry import find
from kiara_cli.core.loss import Objective, where_targets
from kiara_cli.core.model.points import matches, points
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.errors import KiaraError

CPU = Runtime(torch.device("cpu"), "fp32", 1)


@pytest.fixture
def model(tiny: ModelConfig) -> Transformer:
    net = Transformer(tiny)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net


@pytest.fixture
def batch() -> Batch:
    """Rows of one and of two segments, and positions without a target: as many of them as the row's number."""
    ids = torch.randint(64, (3, 9), generator=torch.Generator().manual_seed(1))
    targets, segments = ids[:, 1:].clone(), torch.zeros(3, 8, dtype=torch.long)
    targets[1, :1], targets[2, 4:6], segments[2, 5:] = IGNORE, IGNORE, 1
    return Batch.of(ids[:, :-1], targets, segments)


def context_of(model: Transformer, batch: Batch, hook: str, step: int = 1) -> LossContext:
    """Return what a loss is told, after a forward pass in which it read its points."""
    seen: dict[str, Tensor] = {}

    def see(name: str) -> Callable[..., None]:
        return lambda module, inputs, x: seen.update({name: x})

    found = {name: point for name, point in points(model).items() if matches(name, find(hook).points)}
    handles = [point.register_forward_hook(see(name)) for name, point in found.items()]
    states = model.states(batch.inputs, segments=batch.segments)
    for handle in handles:
        handle.remove()
    return LossContext("mine", step, 10, 1.0, model, batch, states, seen, 0, lambda name, value: None)


def value(model: Transformer, batch: Batch, hook: str, **arguments: Any) -> Tensor:
    made, context = find(hook), context_of(model, batch, hook)
    if made.is_class:
        loss = made.make(**arguments)
        loss.prepare(Setting((), model, None, CPU))  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in loss._model.parameters():
                parameter += 0.05
        return loss(context)
    return made.make(context, **arguments)


ALL = [
    ("z_loss", {}),
    ("attention_entropy", {}),
    ("activation_sparsity", {}),
    ("orthogonality", {}),
    ("weight_norm", {}),
    ("multi_token", {"ahead": 3}),
    ("self_distillation", {"decay": 0.5, "temperature": 2.0}),
]


@pytest.mark.parametrize(("hook", "arguments"), ALL)
def test_pieces_weighed_by_their_targets_are_the_whole_batch(
    model: Transformer, batch: Batch, hook: str, arguments: dict[str, Any]
) -> None:
    whole = value(model, batch, hook, **arguments)
    parts = list(batch.split(1))
    assert len({part.target_count for part in parts}) == 3
    pieces = [value(model, part, hook, **arguments) * part.target_count for part in parts]
    torch.testing.assert_close(torch.stack(pieces).sum() / batch.target_count, whole, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(whole, list(model.parameters()), allow_unused=True)
    assert any(grad is not None and bool(grad.any()) for grad in gradients)
    assert all(grad is None or bool(grad.isfinite().all()) for grad in gradients)


@pytest.mark.parametrize(("hook", "arguments"), ALL)
def test_in_bf16_it_is_nearly_the_same(
    model: Transformer, batch: Batch, hook: str, arguments: dict[str, Any]
) -> None:
    exact = float(value(model, batch, hook, **arguments).detach())
    with Runtime(torch.device("cpu"), "bf16", 1).precision():
        near = value(model, batch, hook, **arguments)
    assert near.dtype == torch.float32
    assert float(near.detach()) == pytest.approx(exact, rel=0.05)
    near.backward()


def test_z_loss_is_what_train_z_loss_adds(model: Transformer, batch: Batch) -> None:
    states, targets = where_targets(context_of(model, batch, "z_loss").states, batch)
    added = Objective(z_loss=1.0)(states, model.unembed, targets)[0] - Objective()(states, model.unembed, targets)[0]
    torch.testing.assert_close(value(model, batch, "z_loss"), added / batch.target_count, rtol=1e-4, atol=0)


def test_the_entropy_of_attention_that_looks_everywhere_is_that_of_so_many_positions(
    model: Transformer, batch: Batch
) -> None:
    for block in model.blocks:
        block.attention.q_norm.weight.data.zero_()
    within = [[1, 2, 3, 4, 5, 6, 7, 8], [2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 2, 3]]  # of positions with a target
    wanted = sum(math.log(count) for row in within for count in row) / batch.target_count
    assert float(value(model, batch, "attention_entropy").detach()) == pytest.approx(wanted, rel=1e-5)


def test_sparsity_is_the_mean_size_of_activations_at_targets(model: Transformer, batch: Batch) -> None:
    seen = context_of(model, batch, "activation_sparsity").points
    sizes = torch.stack([hidden[batch.targets != IGNORE].abs() for hidden in seen.values()])
    assert len(seen) == 2
    torch.testing.assert_close(value(model, batch, "activation_sparsity"), sizes.mean())


def test_weights_at_right_angles_cost_nothing_and_parallel_ones_one(model: Transformer, batch: Batch) -> None:
    for matrix, cost in ((3 * torch.eye(32), 0.0), (torch.ones(32, 32), 1.0)):
        for block in model.blocks:
            block.attention.out.weight.data = matrix
        assert float(value(model, batch, "orthogonality").detach()) == pytest.approx(cost, abs=1e-6)
    eye = {"parameters": "blocks.*.attention.out"}
    for block in model.blocks:
        block.attention.out.weight.data = 3 * torch.eye(32)
    assert float(value(model, batch, "weight_norm", norm=2.0, **eye).detach()) == pytest.approx(0.25)


def test_later_tokens_are_asked_for_within_their_segment_alone(model: Transformer, batch: Batch) -> None:
    assert batch.segments is not None
    logits = model(batch.inputs, segments=batch.segments)
    total = torch.zeros(())
    for row in range(3):
        for t in range(8):
            for k in (1, 2, 3):
                if t + k > 7 or batch.segments[row, t + k] != batch.segments[row, t]:
                    continue
                if IGNORE not in (int(batch.targets[row, t]), int(batch.targets[row, t + k])):
                    total = total + 0.5 ** (k - 1) * F.cross_entropy(logits[row, t], batch.targets[row, t + k])
    torch.testing.assert_close(value(model, batch, "multi_token", ahead=3), total / batch.target_count)
    assert float(value(model, batch, "multi_token", ahead=8).detach()) > 0  # further than a row is long
    alone = Batch.of(batch.inputs[:, :1], batch.targets[:, :1])
    assert float(value(model, alone, "multi_token").detach()) == 0


def test_distillation_is_the_divergence_from_an_average_that_follows_the_weights(
    model: Transformer, batch: Batch
) -> None:
    loss = auxiliary.SelfDistillation(decay=0.75, temperature=2.0)
    loss.prepare(Setting((), model, None, CPU))  # type: ignore[arg-type]
    before = model.head.weight.detach().clone()
    assert float(loss(context_of(model, batch, "self_distillation")).detach()) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        model.head.weight += 0.1 * torch.randn(model.head.weight.shape)
    context = context_of(model, batch, "self_distillation", step=2)
    found = loss(context)
    assert torch.equal(loss(context), found)  # another piece of the same step moves nothing
    assert loss._model is not None
    torch.testing.assert_close(loss._model.head.weight, 0.75 * before + 0.25 * model.head.weight)
    where = batch.targets != IGNORE
    with torch.no_grad():
        theirs = (loss._model(batch.inputs, segments=batch.segments) / 2)[where].softmax(-1)
        ours = (model(batch.inputs, segments=batch.segments) / 2)[where].softmax(-1)
    wanted = 4 * (theirs * (theirs / ours).log()).sum() / batch.target_count
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-4, atol=1e-6)
    other = auxiliary.SelfDistillation(decay=0.75, temperature=2.0)
    other.prepare(Setting((), model, None, CPU))  # type: ignore[arg-type]
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other(context), found)


@pytest.mark.parametrize(
    ("hook", "arguments"),
    [("multi_token", {"ahead": 0}), ("weight_norm", {"norm": 0.0}), ("self_distillation", {"temperature": 0.0})],
)
def test_arguments_without_a_meaning_are_refused(
    model: Transformer, batch: Batch, hook: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(KiaraError, match="with"):
        value(model, batch, hook, **arguments)
