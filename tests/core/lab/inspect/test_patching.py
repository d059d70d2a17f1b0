"""Patching: all of it is the other prompt, none of it is this one; each cell is a pass made by hand."""

from __future__ import annotations

import pytest
import torch

from kiara_cli.core.lab.inspect.patching import (
    KINDS,
    first_difference,
    log_probability,
    logit_difference,
    patch,
    run,
)
from kiara_cli.core.lab.inspect.trace import changed, trace
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError

CLEAN, CORRUPT = [5, 9, 3, 7, 2, 9], [5, 9, 8, 7, 2, 9]


@torch.no_grad()
def test_the_whole_stream_is_the_other_prompt_and_each_cell_a_pass_of_its_own(net: Transformer) -> None:
    metric = logit_difference(3, 8)
    found = patch(net, CLEAN, CORRUPT, metric, "logit 3 - logit 8")
    clean, corrupt = (net(torch.tensor([ids]))[0, -1] for ids in (CLEAN, CORRUPT))
    assert found.clean == pytest.approx(float(clean[3] - clean[8]), abs=1e-4)
    assert found.corrupt == pytest.approx(float(corrupt[3] - corrupt[8]), abs=1e-4)
    first = found.maps["resid_pre"][0]
    torch.testing.assert_close(first, torch.eye(6)[2], rtol=1e-3, atol=1e-3)  # the token that differs carries it all
    assert found.maps["resid_pre"].shape == (2, 6)
    source = trace(net, CLEAN)
    for layer, place in ((1, 5), (0, 2), (1, 0)):
        for kind in KINDS:
            name = f"blocks.{layer}.{kind}"

            def put(value: torch.Tensor, name: str = name, place: int = place) -> torch.Tensor:
                value = value.clone()
                value[0, place] = source.values[name][place]
                return value

            with changed(net, {name: put}):
                logits = net(torch.tensor([CORRUPT]))[0, -1]
            share = (float(logits[3] - logits[8]) - found.corrupt) / found.span
            assert float(found.maps[kind][layer, place]) == pytest.approx(share, abs=1e-3)
    with changed(net, {"blocks.0.resid_pre": lambda value: source.at(0, "resid_pre")[None]}):
        torch.testing.assert_close(run(net, CORRUPT, 1, {})[0], clean, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_head_is_patched_at_every_position(net: Transformer) -> None:
    found = patch(net, CLEAN, CORRUPT, log_probability(3), "log p(3)")
    source = trace(net, CLEAN)

    def put(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        value[0, 2] = source.at(0, "attention.heads")[2]
        return value

    with changed(net, {"blocks.0.attention.heads": put}):
        score = float(net(torch.tensor([CORRUPT]))[0, -1].log_softmax(-1)[3])
    assert float(found.heads[0, 2]) == pytest.approx((score - found.corrupt) / found.span, abs=1e-3)
    assert found.heads.shape == (2, 4)


def test_prompts_that_cannot_be_compared_are_refused(plain: Transformer) -> None:
    with pytest.raises(KiaraError, match="6 and 5 tokens"):
        patch(plain, CLEAN, CORRUPT[:5], log_probability(3), "log p")
    with pytest.raises(KiaraError, match="for both prompts: there is nothing to explain"):
        patch(plain, CLEAN, CLEAN, log_probability(3), "log p")
    assert first_difference(CLEAN, CORRUPT) == 2
    assert first_difference(CLEAN, CLEAN[:4]) == 4
