"""A part taken away against the same weights set to zero."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from kiara_cli.core.lab.inspect.ablation import ablate, scores
from kiara_cli.core.lab.inspect.trace import changed, trace
from kiara_cli.core.model.transformer import Transformer


@torch.no_grad()
def plain_loss(net: Transformer, window: list[int], start: int) -> float:
    logits = net(torch.tensor([window]))[0]
    return float(F.cross_entropy(logits[start - 1 : -1], torch.tensor(window[start:])))


def test_a_head_without_its_columns_and_a_feedforward_without_its_output_give_the_same_loss(
    net: Transformer, ids: list[int]
) -> None:
    found = ablate(net, [ids], scored_from=4)
    assert len(found) == net.config.n_layers * (net.config.n_heads + 1)
    C = net.config.head_dim
    for one in found:
        other = copy.deepcopy(net)
        block = other.blocks[one.layer]
        with torch.no_grad():
            if one.head is None:
                block.feedforward.down.weight.zero_()
                if block.feedforward.down.bias is not None:
                    block.feedforward.down.bias.zero_()
            else:
                block.attention.out.weight[:, one.head * C : one.head * C + C] = 0
        assert one.loss == pytest.approx(plain_loss(other, ids, 4), abs=1e-5), one.name
        assert one.change == pytest.approx(one.loss - plain_loss(net, ids, 4), abs=1e-5)
    assert max(abs(one.change) for one in found) > 1e-3
    with torch.no_grad():
        logits = net(torch.tensor([ids]))[0, 3:-1]
    leads = [
        float(row[token] - max(row[:token].max(), row[token + 1 :].max()))
        for row, token in zip(logits, ids[4:], strict=True)
    ]
    assert found[0].lead_before == pytest.approx(sum(leads) / len(leads), abs=1e-4)


@torch.no_grad()
def test_a_mean_is_that_of_all_positions_of_all_windows(plain: Transformer, ids: list[int]) -> None:
    windows = [ids, ids[2:7]]
    found = {one.name: one.loss for one in ablate(plain, windows, how="mean")}
    traces = [trace(plain, window) for window in windows]
    head = torch.cat([one.at(1, "attention.heads")[2] for one in traces]).mean(dim=0)
    forward = torch.cat([one.at(0, "feedforward.out") for one in traces]).mean(dim=0)

    def put(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        value[:, 2] = head
        return value

    with changed(plain, {"blocks.1.attention.heads": put}):
        assert found["head 1.2"] == pytest.approx(scores(plain, windows, 1)[0], abs=1e-5)
    with changed(plain, {"blocks.0.feedforward.out": lambda value: forward.expand_as(value)}):
        assert found["feedforward 0"] == pytest.approx(scores(plain, windows, 1)[0], abs=1e-5)


def test_a_loss_over_windows_counts_every_token_once(plain: Transformer, ids: list[int]) -> None:
    parts = [plain_loss(plain, ids, 1) * (len(ids) - 1), plain_loss(plain, ids[:4], 1) * 3]
    with torch.no_grad():
        assert scores(plain, [ids, ids[:4]], 1)[0] == pytest.approx(sum(parts) / (len(ids) + 2), abs=1e-5)
