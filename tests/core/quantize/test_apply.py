from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import GenerateConfig, QuantizeConfig
from kiara_cli.core.data.batches import Batch
from kiara_cli.core.generate.engine import Engine, Options
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize.apply import full_weights, is_small, prepare, quantize
from kiara_cli.core.quantize.calibrate import batches_of, moments
from kiara_cli.core.quantize.scheme import Scheme, asked_for, recorded
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.errors import KiaraError

RUNTIME = Runtime(torch.device("cpu"), "fp32", 1)
GREEDY = GenerateConfig(max_new_tokens=20, temperature=0)


def scheme(bits: int, config: ModelConfig, method: str = "rtn") -> Scheme:
    return asked_for(bits, QuantizeConfig(method=method, group_size=16), config)  # type: ignore[arg-type]


def small_and_full(config: ModelConfig, bits: int) -> tuple[Transformer, Transformer]:
    """Return a small model, and one with the full matrices that its codes stand for."""
    torch.manual_seed(1)
    small = Transformer(config).eval()
    full = copy.deepcopy(small)
    for _ in quantize(small, scheme(bits, config)):
        pass
    weights = full_weights(dict(small.state_dict()))
    full.load_state_dict({name: weights[name] for name in full.state_dict()})
    return small, full


@pytest.mark.parametrize("bits", [8, 4])
def test_a_small_model_computes_what_its_full_matrices_would(every_model: list[ModelConfig], bits: int) -> None:
    ids = torch.randint(64, (2, 9))
    for config in every_model[::3]:
        small, full = small_and_full(config, bits)
        assert is_small(small)
        with torch.inference_mode():
            assert torch.allclose(small(ids), full(ids), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_engine_writes_what_the_full_matrices_would_on_every_path(
    every_model: list[ModelConfig], bits: int
) -> None:
    for config in every_model[::7]:
        small, full = small_and_full(config, bits)
        expected = [token.id for token in Engine(full, RUNTIME).generate([1, 2, 3], GREEDY)]
        for options in (Options(), Options(fast=False), Options(cache=False)):
            found = [token.id for token in Engine(small, RUNTIME, options=options).generate([1, 2, 3], GREEDY)]
            assert found == expected, (config, options)


def test_in_bf16_the_engine_shares_the_codes_and_leaves_the_model_as_it_was(tiny: ModelConfig) -> None:
    small, _ = small_and_full(tiny, 4)
    engine = Engine(small, Runtime(torch.device("cpu"), "bf16", 1))
    assert engine.model is not small
    assert engine.model.head.codes.data_ptr() == small.head.codes.data_ptr()  # type: ignore[operator, union-attr]
    assert len(list(engine.generate([1], GREEDY))) == 20
    assert small(torch.tensor([[1]])).dtype == torch.float32


@pytest.mark.parametrize("tied", [False, True])
def test_embedding_and_head_have_bits_of_their_own(tiny: ModelConfig, tied: bool) -> None:
    config = dataclasses.replace(tiny, tied_head=tied)
    wanted = asked_for(4, QuantizeConfig(method="rtn", group_size=16, embedding_bits=16, head_bits=8), config)
    model = Transformer(config)
    found = {layer.name: layer.bits for layer in quantize(model, wanted)}
    assert found["tokens"] == 16
    assert found["blocks.0.attention.qkv"] == 4
    assert found.get("head") == (None if tied else 8)


def test_gptq_makes_the_model_better_than_rounding_does(tiny: ModelConfig) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(64, (4000,)).numpy()
    model = Transformer(dataclasses.replace(tiny, tied_head=False))
    batches = batches_of(tokens, {}, tiny.context_length, 2000)
    assert sum(batch.inputs.numel() for batch in batches) >= 1500
    layers = list(quantize(model, scheme(4, model.config, "gptq"), batches))
    assert len(layers) == 10
    for layer in layers:
        assert layer.error <= layer.nearest_error * 1.0001
    assert sum(layer.error for layer in layers) < 0.95 * sum(layer.nearest_error for layer in layers)


def test_moments_are_those_of_the_inputs_of_each_matrix(tiny: ModelConfig) -> None:
    model = Transformer(tiny).eval()
    ids = torch.randint(64, (3, 16))
    names = []
    for name, hessian in moments(model, [Batch.of(ids, ids)]):
        names.append(name)
        assert torch.allclose(hessian, hessian.T, rtol=1e-4, atol=1e-4)
        assert float(torch.linalg.eigvalsh(hessian).min()) > -1e-3
    assert names[0] == "blocks.0.attention.qkv"
    assert names[-1] == "head"
    assert len(names) == 9
    assert all(parameter.grad is None for parameter in model.parameters())


def test_moments_of_a_large_vocabulary_need_the_logits_of_a_few_positions(
    tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = Transformer(dataclasses.replace(tiny, tied_head=False)).eval(), []
    batch = Batch.of(torch.randint(64, (12, 16)), torch.randint(64, (12, 16)))
    whole = dict(moments(model, [batch]))
    model.head.register_forward_hook(lambda head, inputs, logits: seen.append(len(logits)))
    monkeypatch.setattr("kiara_cli.core.loss.LOGITS", 64 * 4 * 64)
    for name, hessian in moments(model, [batch]):
        torch.testing.assert_close(hessian, whole[name], rtol=1e-4, atol=1e-5)
    assert seen == [64] * 3


def test_weights_that_are_no_numbers_are_refused_before_anything_is_changed(tiny: ModelConfig) -> None:
    model = Transformer(tiny)
    with torch.no_grad():
        model.blocks[1].attention.out.weight[0, 0] = torch.nan  # type: ignore[union-attr, index]
    with pytest.raises(KiaraError, match=r"blocks.1.attention.out.weight holds values that are not finite"):
        list(quantize(model, scheme(8, tiny)))
    assert not is_small(model)


def test_a_group_that_does_not_divide_names_one_that_does(tiny: ModelConfig) -> None:
    model = Transformer(tiny)
    with pytest.raises(KiaraError, match=r"groups of 24 do not divide the 32 columns of tokens") as error:
        list(quantize(model, dataclasses.replace(scheme(4, tiny), group_size=24)))
    assert "--group-size 8" in str(error.value)
    assert not is_small(model)


def test_a_scheme_comes_back_from_its_record_and_a_strange_one_is_refused(tiny: ModelConfig) -> None:
    wanted = scheme(4, tiny)
    assert recorded(wanted.record(), "x.pt") == wanted
    for strange in ({"form": 2}, {"bits": 3}, {"layout": "avx512"}):
        with pytest.raises(KiaraError, match=r"x.pt stores its numbers in a way that this Kiara does not read"):
            recorded(wanted.record() | strange, "x.pt")


def test_an_empty_small_model_takes_the_numbers_of_another(tiny: ModelConfig) -> None:
    small, _ = small_and_full(tiny, 4)
    empty = Transformer(tiny).eval()
    prepare(empty, scheme(4, tiny))
    empty.load_state_dict(small.state_dict())
    ids = torch.randint(64, (1, 8))
    assert torch.equal(empty(ids), small(ids))
