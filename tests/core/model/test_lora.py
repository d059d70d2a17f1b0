"""Adapters: nothing at first, then what merging adds to the weights; the rest stays frozen."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import LoraConfig, TrainConfig
from kiara_cli.core.checkpoint.files import model_from, weights_of
from kiara_cli.core.data.batches import Batch
from kiara_cli.core.loss import batch_loss
from kiara_cli.core.model import fused as native_loops
from kiara_cli.core.model.fastpath import why_plain
from kiara_cli.core.model.lora import (
    LoraLinear,
    adapter_parameters,
    adapter_weights,
    add_adapters,
    merged,
    target_layers,
)
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize.apply import quantize
from kiara_cli.core.quantize.layers import QuantizedLinear
from kiara_cli.core.quantize.scheme import Scheme
from kiara_cli.core.runtime.native import CompilerError
from kiara_cli.core.train.optimizer import OPTIMIZERS, make_optimizer
from kiara_cli.errors import KiaraError

LORA = LoraConfig(rank=4, alpha=8.0)
IDS = torch.randint(0, 64, (3, 16), generator=torch.Generator().manual_seed(1))


def moved(model: Transformer) -> Transformer:
    """Give every adapter something to say."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoraLinear):
                module.lora_b.normal_(std=0.1)
    return model


def batch() -> Batch:
    return Batch.of(IDS[:, :-1], IDS[:, 1:])


def test_merged_is_the_adapter_and_not_the_base_for_every_model(every_model: list[ModelConfig]) -> None:
    for config in every_model[::7] + every_model[-6:]:
        model = Transformer(config).eval()
        weights, before = weights_of(model), model(IDS)
        weights = {name: tensor.clone() for name, tensor in weights.items()}
        model = add_adapters(model, LORA)
        assert torch.equal(model(IDS), before), "at first an adapter changes nothing"
        with_adapter = moved(model)(IDS)
        plain = model_from(config, merged(weights, adapter_weights(model), LORA.alpha), "merged").eval()
        assert (plain(IDS) - with_adapter).abs().max() < 1e-5
        assert (plain(IDS) - before).abs().max() > 1e-2


def test_only_adapters_have_gradients_and_a_state_of_the_optimizer(tiny: ModelConfig) -> None:
    for name in OPTIMIZERS:
        model = moved(add_adapters(Transformer(tiny), LORA))
        kept = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained == set(adapter_weights(model))
        config = TrainConfig(optimizer=name, lora=LORA)  # type: ignore[arg-type]
        optimizer = make_optimizer(model, config)
        batch_loss(model, batch())[0].backward()
        assert {key for key, parameter in model.named_parameters() if parameter.grad is not None} == trained
        assert {group["lr"] for group in optimizer.param_groups} == {LORA.lr}
        optimizer.step()
        assert len(optimizer.state) == len(trained)
        assert sum(parameter.numel() for parameter in optimizer.state) == adapter_parameters(tiny, LORA)
        changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, kept[key])}
        assert changed == trained


def test_targets_are_named_by_pattern_and_a_wrong_one_is_one_line(tiny: ModelConfig) -> None:
    model = Transformer(tiny)
    assert len(target_layers(model, ("blocks.*",))) == 8
    assert target_layers(model, ("*.1.*.qkv",)) == ["blocks.1.attention.qkv"]
    assert "head" not in target_layers(model, ("*",)), "it is the embedding's own matrix"
    apart = Transformer(dataclasses.replace(tiny, tied_head=False))
    assert target_layers(apart, ("*",))[-1] == "head"
    with pytest.raises(KiaraError, match=r"no linear layer is called q_proj; .*blocks.0.attention.qkv, "):
        target_layers(model, ("q_proj",))


def test_a_model_with_adapters_takes_the_plain_path_and_a_merged_one_the_fast_one(tiny: ModelConfig) -> None:
    weights = weights_of(Transformer(tiny))
    model = add_adapters(model_from(tiny, weights, "base"), LORA)
    assert "LoraLinear" in str(why_plain(model))
    assert why_plain(model_from(tiny, merged(weights, adapter_weights(model), 8.0), "merged")) is None


def test_the_fused_loops_of_training_give_an_adapter_the_same_gradients(tiny: ModelConfig) -> None:
    try:
        library = native_loops.load()
    except CompilerError as error:
        pytest.skip(str(error))
    found: list[Tensor] = []
    for dtype, fuses in ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        torch.manual_seed(3)
        model = moved(add_adapters(Transformer(dataclasses.replace(tiny, feedforward="swiglu")), LORA))
        if fuses:
            model = native_loops.fuse(model, library)
            assert "forward" in vars(model.norm), "the norms run in C beside adapters"
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = batch_loss(model, batch())[0]
        loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    exact, plain, fused = found
    assert (fused - exact).norm() < 1.5 * (plain - exact).norm() < 0.15 * exact.norm()


def test_an_adapter_learns_beside_quantized_weights_as_beside_what_they_stand_for(tiny: ModelConfig) -> None:
    config = dataclasses.replace(tiny, tied_head=False)
    small, full = Transformer(config), Transformer(config)
    full.load_state_dict(small.state_dict())
    list(quantize(small, Scheme(bits=4, method="rtn", group_size=32, embedding_bits=4, head_bits=4)))
    with torch.no_grad():
        for name, module in small.named_modules():
            if isinstance(weight := getattr(module, "weight", None), Tensor):
                full.get_submodule(name).weight.copy_(weight)  # type: ignore[operator, union-attr]
    gradients = []
    for model in (small, full):
        torch.manual_seed(2)
        model = moved(add_adapters(model.train(), LORA))
        held: list[tuple[int, ...]] = []

        def keep(tensor: Tensor, held: list[tuple[int, ...]] = held) -> Tensor:
            held.append(tuple(tensor.shape))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = batch_loss(model, batch())[0]
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        if model is small:
            shapes = {(m.out_features, m.in_features) for m in model.modules() if isinstance(m, QuantizedLinear)}
            assert shapes, "there are quantized matrices"
            assert not shapes & set(held), "and none is kept in full for the way back"
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).abs().max() < 1e-4 * gradient.abs().max(), name
