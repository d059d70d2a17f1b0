from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.data.batches import Batch
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize import tune as tuning
from kiara_cli.core.quantize.apply import quantize
from kiara_cli.core.quantize.calibrate import batches_of
from kiara_cli.core.quantize.scheme import Scheme
from kiara_cli.core.quantize.tune import tune


def small_full_and_batches(config: ModelConfig) -> tuple[Transformer, Transformer, list[Batch]]:
    """Return a model that is sure of what comes next, made small, the full one, and text."""
    torch.manual_seed(0)
    full = Transformer(config).eval()
    with torch.no_grad():
        for weight in full.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
    small = copy.deepcopy(full)
    for _ in quantize(small, Scheme(4, "rtn", 16, 4, 4)):
        pass
    return small, full, batches_of(torch.randint(64, (6000,)).numpy(), {}, config.context_length, 4096)


@pytest.mark.parametrize("tied", [False, True])
def test_scales_and_norms_move_towards_the_full_model_and_codes_stay(tiny: ModelConfig, tied: bool) -> None:
    small, full, batches = small_full_and_batches(dataclasses.replace(tiny, tied_head=tied))
    unseen, seen = batches[:2], batches[2:]
    before, codes = tuning._distance(small, full, unseen), small.state_dict()
    codes = {name: tensor.clone() for name, tensor in codes.items() if name.endswith(".codes")}
    assert tune(small, full, seen, 3)
    assert tuning._distance(small, full, unseen) < 0.9 * before
    after = small.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in codes.items())
    assert all(tensor.dtype == torch.bfloat16 for name, tensor in after.items() if name.endswith(".scales"))
    assert torch.equal(after["head.scales"], after["tokens.scales"]) == tied


def test_what_makes_unseen_text_worse_is_taken_back(tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    small, full, batches = small_full_and_batches(tiny)
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    monkeypatch.setattr(tuning, "RATE", 10.0)
    assert not tune(small, full, batches, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())


def test_no_passes_change_nothing(tiny: ModelConfig) -> None:
    small, full, batches = small_full_and_batches(tiny)
    assert not tune(small, full, batches, 0)
    assert not tune(small, full, batches[:1], 2)


def test_the_distance_holds_the_logits_of_a_few_positions_and_has_the_same_gradient(
    tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, full, batches = small_full_and_batches(dataclasses.replace(tiny, tied_head=False))
    seen: list[int] = []
    full.head.register_forward_hook(lambda head, inputs, logits: seen.append(len(logits)))
    found = []
    for limit in (64 << 20, 64 * 4 * 64):
        monkeypatch.setattr("kiara_cli.core.loss.LOGITS", limit)
        seen.clear()
        small.zero_grad()
        distance = tuning._difference(small, full, batches[0])
        distance.backward()
        assert max(seen) == (batches[0].target_count if limit > 64 * 4 * 64 else 64)
        found.append((distance.item(), torch.cat([weight.grad.flatten() for weight in small.parameters()])))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)
