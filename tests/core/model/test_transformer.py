"""Properties that hold for every combination of options."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.model.cache import Cache
from kiara_cli.core.model.count import count
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime

T = 12


def wide_awake(config: ModelConfig) -> Transformer:
    """A model whose weights are large enough that a mistake shows in its logits."""
    model = Transformer(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


@torch.no_grad()
def test_a_later_token_never_changes_earlier_logits(every_model: list[ModelConfig]) -> None:
    ids = torch.randint(0, 64, (2, T))
    changed = ids.clone()
    changed[:, 7] = (ids[:, 7] + 1) % 64
    for config in every_model:
        model = wide_awake(config)
        before, after = model(ids), model(changed)
        torch.testing.assert_close(after[:, :7], before[:, :7], msg=lambda text, at=config: f"{at}: {text}")
        assert not torch.allclose(after[:, 7], before[:, 7], atol=1e-4), config
        assert not torch.allclose(after[:, 8:], before[:, 8:], atol=1e-4), f"{config}: nothing looks back"


@torch.no_grad()
def test_a_cache_changes_nothing(every_model: list[ModelConfig]) -> None:
    ids = torch.randint(0, 64, (2, T))
    for config in every_model:
        model = wide_awake(config)
        cache = Cache(config, 2, torch.device("cpu"), torch.float32)
        parts = [model(part, cache) for part in ids.split([5, 1, 3, 1, 1, 1], dim=1)]
        assert cache.length == T
        torch.testing.assert_close(
            torch.cat(parts, dim=1), model(ids), atol=2e-5, rtol=1e-4, msg=lambda text, at=config: f"{at}: {text}"
        )


@torch.no_grad()
def test_every_option_changes_what_the_model_computes(tiny: ModelConfig) -> None:
    ids = torch.randint(0, 64, (1, T))
    options = [
        {},
        {"positions": "learned"},
        {"positions": "sinusoidal"},
        {"norm": "layernorm"},
        {"feedforward": "gelu"},
        {"feedforward": "relu2"},
        {"n_kv_heads": 2},
        {"qk_norm": False},
        {"tied_head": False},
        {"rope_theta": 100.0},
        {"rotary_share": 0.5},
        {"rope_scaling": "linear", "rope_factor": 2.0},
        {"rope_scaling": "llama3", "rope_factor": 2.0, "rope_original_context": 16},
        {"rope_scaling": "yarn", "rope_factor": 2.0, "rope_original_context": 16},
        {"norm": "rmsnorm_1p"},
        {"feedforward": "gelu_erf"},
        {"feedforward": "geglu"},
        {"residual": "parallel"},
        {"scale_embeddings": True},
        {"attention_bias": "all"},
        {"attention_bias": "qkv"},
    ]
    seen = []
    for changes in options:
        torch.manual_seed(0)
        seen.append(wide_awake(tiny.replace(**changes))(ids).sum().item())
    assert len(set(seen)) == len(options)


def test_rows_of_a_batch_do_not_see_each_other(tiny: ModelConfig) -> None:
    model, ids = wide_awake(tiny), torch.randint(0, 64, (3, T))
    alone = torch.cat([model(row[None]) for row in ids])
    torch.testing.assert_close(model(ids), alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_another_segment_of_a_row_is_not_seen(every_model: list[ModelConfig]) -> None:
    ids = torch.randint(0, 64, (2, T))
    changed = ids.clone()
    changed[:, :5] = (ids[:, :5] + 1) % 64
    one, two = torch.zeros_like(ids), (torch.arange(T) >= 5).long().expand(2, T)  # segments of a row
    for config in every_model[::7]:
        model = wide_awake(config)
        torch.testing.assert_close(model(ids, segments=one), model(ids), atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(model(changed, segments=two)[:, 5:], model(ids, segments=two)[:, 5:])
        assert not torch.allclose(model(changed, segments=one)[:, 5:], model(ids, segments=one)[:, 5:])


def test_the_order_of_tokens_matters(every_model: list[ModelConfig]) -> None:
    ids = torch.randint(0, 64, (1, T))
    swapped = ids[:, [1, 0, *range(2, T)]]
    for config in every_model[:: len(every_model) // 12]:
        model = wide_awake(config)
        assert not torch.allclose(model(ids)[:, -1], model(swapped)[:, -1], atol=1e-6), config


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_shares_its_storage(tiny: ModelConfig, tied: bool) -> None:
    model = Transformer(replace(tiny, tied_head=tied))
    assert (model.head.weight.data_ptr() == model.tokens.weight.data_ptr()) == tied


@pytest.mark.parametrize("feedforward", ["swiglu", "gelu"])
def test_the_table_of_initial_weights_holds(feedforward: str) -> None:
    config = ModelConfig(
        vocab_size=500,
        context_length=128,
        emb_dim=128,
        n_heads=4,
        n_layers=3,
        positions="learned",
        norm="layernorm",
        bias=True,
        tied_head=False,
        feedforward=feedforward,  # type: ignore[arg-type]
    )
    shrink = 1 / math.sqrt(2 * 3)
    wide = max(0.02, 0.5 / math.sqrt(config.hidden_dim))
    narrow = 0.5 / math.sqrt(128)
    expected = {
        "tokens.weight": 1.0,
        "table.weight": 1.0,
        "head.weight": 0.015,
        "qkv.weight": narrow,
        "up.weight": narrow,
        "0.attention.out.weight": narrow * shrink,
        "attention.out.weight": 2 * narrow * shrink,
        "down.weight": wide * shrink,
    }
    for name, weight in Transformer(config).named_parameters():
        if name.endswith(".bias"):
            assert weight.count_nonzero() == 0, name
        elif "norm" in name:
            assert (weight == (3 if "q_norm" in name else 1)).all(), name
        else:
            std = next(std for end, std in expected.items() if name.endswith(end))
            assert weight.std().item() == pytest.approx(std, rel=0.05), name
            assert abs(weight.mean().item()) < std / 10, name


def test_embeddings_tied_to_the_head_start_small_and_queries_start_sharp() -> None:
    model = Transformer(ModelConfig(vocab_size=1024, context_length=128, tied_head=True))
    assert model.tokens.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (model.blocks[0].attention.q_norm.weight == 3).all()
    assert (model.blocks[0].attention.k_norm.weight == 1).all()


def test_a_fresh_model_is_nearly_undecided(every_model: list[ModelConfig]) -> None:
    ids = torch.randint(0, 64, (2, T))
    for config in every_model[::7]:
        logits = Transformer(config)(ids)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.roll(-1, 1).flatten())
        assert loss.item() == pytest.approx(math.log(64), rel=0.1), config


def test_the_same_seed_makes_the_same_model(tiny: ModelConfig) -> None:
    torch.manual_seed(3)
    first = Transformer(tiny).state_dict()
    torch.manual_seed(3)
    second = Transformer(tiny).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_weight_receives_a_gradient(every_model: list[ModelConfig]) -> None:
    ids = torch.randint(0, 64, (2, T))
    for config in every_model[::7]:
        model = wide_awake(config).train()
        model(ids).square().sum().backward()
        silent = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
        assert silent == [], config


def test_dropout_acts_in_training_alone(tiny: ModelConfig) -> None:
    model, ids = wide_awake(replace(tiny, drop_rate=0.5)), torch.randint(0, 64, (1, T))
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_bf16_trains_and_decodes_without_a_warning(norm: str) -> None:
    config = ModelConfig(vocab_size=64, context_length=16, emb_dim=32, n_heads=4, n_layers=2, norm=norm)
    model = Transformer(config)
    ids = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))
    with Runtime(torch.device("cpu"), "bf16", 1).precision():
        logits = model(ids)
    logits.float().logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@torch.inference_mode()
def test_heads_of_their_own_width_count_and_cache_like_any_other(tiny: ModelConfig) -> None:
    config = replace(tiny, head_dim=12, n_kv_heads=2)
    model = Transformer(config).eval()
    assert sum(weight.numel() for weight in model.parameters()) == count(config).parameters
    ids = torch.randint(0, 64, (1, 10))
    cache = Cache(config, 1, model.device, torch.float32)
    steps = torch.cat([model(ids[:, start : start + 5], cache) for start in (0, 5)], dim=1)
    torch.testing.assert_close(steps, model(ids), rtol=1e-4, atol=1e-5)
