"""Muon moves every direction of a matrix alike, and resumes like any optimizer."""

from __future__ import annotations

import copy

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import TrainConfig
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.train.optimizer import Both, Muon, make_optimizer, orthogonalize


def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(vocab_size=64, context_length=16, emb_dim=32, n_heads=4, n_layers=2))


def step(net: Transformer, optimizer: torch.optim.Optimizer, seed: int) -> None:
    ids = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(seed))
    net(ids).logsumexp(-1).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 16, 40), (2, 40, 16)])
def test_orthogonalized_matrices_keep_directions_and_even_out_their_strengths(shape) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    made = orthogonalize(matrices)
    strengths = torch.linalg.svdvals(made)
    assert strengths.max() < 1.3
    assert strengths.min() > 0.3
    one_by_one = torch.stack([orthogonalize(matrix[None])[0] for matrix in matrices])
    assert torch.allclose(made, one_by_one, atol=1e-5)


def test_in_bf16_the_same_matrices_are_found_to_its_precision() -> None:
    matrices = torch.randn(2, 32, 80, generator=torch.Generator().manual_seed(1))
    exact = orthogonalize(matrices)
    with torch.autocast("cpu", torch.bfloat16):
        made = orthogonalize(matrices)
    assert made.dtype == torch.bfloat16
    alike = torch.cosine_similarity(exact.flatten(1), made.float().flatten(1))
    assert alike.min() > 0.995
    assert torch.linalg.svdvals(made.float()).max() < 1.3


def test_muon_takes_the_matrices_of_blocks_and_nothing_else() -> None:
    net = model()
    optimizer = make_optimizer(net, TrainConfig(optimizer="muon"))
    assert isinstance(optimizer, Both)
    muon, adamw = optimizer.parts
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    taken = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    others = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert isinstance(muon, Muon)
    assert taken == {name for name in names.values() if name.startswith("blocks.") and "norm" not in name}
    assert taken | others == set(names.values())
    assert not taken & others


def test_the_learning_rate_set_on_the_groups_reaches_both_parts() -> None:
    net = model()
    before = copy.deepcopy(net.state_dict())
    optimizer = make_optimizer(net, TrainConfig(optimizer="muon", weight_decay=0))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    step(net, optimizer, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_an_optimizer_loaded_from_its_state_goes_on_bit_for_bit() -> None:
    net = model()
    optimizer = make_optimizer(net, TrainConfig(optimizer="muon"))
    step(net, optimizer, 0)
    twin = copy.deepcopy(net)
    other = make_optimizer(twin, TrainConfig(optimizer="muon"))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for seed in (1, 2):
        step(net, optimizer, seed)
        step(twin, other, seed)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
