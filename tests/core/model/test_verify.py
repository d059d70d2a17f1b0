"""A wrong function in the fused loops of training is noticed before it trains a model."""

from __future__ import annotations

import copy
import dataclasses
import logging
from typing import Any

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.model import fused
from kiara_cli.core.model.fused import drop_fault, fuse, put_loops
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.model.verify import disagreement, small_model
from kiara_cli.core.runtime.native import CompilerError

MUTATIONS = {
    "norm": ("1.0f / sqrtf(sum / width + eps)", "1.0f / sqrtf(sum / width * (WRONG ? 1.1f : 1.0f) + eps)"),
    "norm, gradient of the weight": (
        "to_float(from[i]);\n                sums[i] += t * r;",
        "to_float(from[i]);\n                sums[i] += WRONG ? t : t * r;",
    ),
    "norm, gradient of the input": ("dot *= r * r / width;", "dot *= WRONG ? 0 : r * r / width;"),
    "swiglu": ("to_bf16(a * s * to_float(up[i]));", "to_bf16((WRONG ? 1.2f : a) * s * to_float(up[i]));"),
    "swiglu, gradient of the gate": ("(1.0f + a * (1.0f - s))", "(1.0f + (WRONG ? 0 : a) * (1.0f - s))"),
    "swiglu, gradient of the rest": ("to_bf16(p * a * s);", "to_bf16(p * (WRONG ? 1 : a) * s);"),
    "rotary": ("(two * cos[i] + one * sin[i]);", "(two * cos[i] + (WRONG ? -one : one) * sin[i]);"),
    "rotary, gradient": ("= two * cos[i] - one * sin[i];", "= two * cos[i] - (WRONG ? 0 : one) * sin[i];"),
    "key norm": ("float *w = h < H ? wq : wk;\n                bf16", "float *w = h < H || WRONG ? wq : wk;\n bf16"),
    "key norm, gradient of the weight": ("float *sum = h < H ? sums", "float *sum = h < H || WRONG ? sums"),
    "query and key norm, gradient": ("dot *= r * r / C;", "dot *= WRONG ? 0 : r * r / C;"),
    "softmax sum": ("sum = 1.0f / sum;", "sum = (WRONG ? 0.9f : 1.0f) / sum;"),
    "softmax maximum": ("fast_exp(row[i] - most);", "fast_exp(row[i] - (WRONG && i > 40 ? 2 : 1) * most);"),
    "softmax scale": ("= to_float(at[i]) * scale;", "= to_float(at[i]) * (WRONG ? 1 : scale);"),
    "softmax, masked": ("* scale + to_float(add[i]);", "* scale + (WRONG ? 0 : to_float(add[i]));"),
    "softmax, causal": ("bias ? S : S - T + t + 1;", "bias ? S : WRONG ? S : S - T + t + 1;"),
    "softmax, gradient": ("(to_float(gradient[i]) - dot));", "(to_float(gradient[i]) - (WRONG ? 0 : dot)));"),
    "softmax, gradient's scale": ("to_bf16(scale * to_float(w[i])", "to_bf16((WRONG ? 1 : scale) * to_float(w[i])"),
    "exp": ("p = 0.693147180f", "p = (WRONG ? 0.95f : 0.693147180f)"),
    "dropout, share": ("z < limit ? 0", "z < limit / (WRONG ? 2 : 1) ? 0"),
    "dropout, scale": ("float scale = 1.0f / (1.0f - rate);", "float scale = WRONG ? 1.0f : 1.0f / (1.0f - rate);"),
}
CONFIG = ModelConfig(vocab_size=64, context_length=96, emb_dim=64, n_heads=4, n_kv_heads=2, n_layers=2, drop_rate=0.1)


@pytest.fixture(scope="session")
def mutants(build_mutants: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    try:
        return build_mutants(fused.SOURCE, fused.SIGNATURES, MUTATIONS)
    except CompilerError as error:
        pytest.skip(str(error))


def test_each_wrong_function_of_the_loops_is_caught_forward_and_backward(mutants: Any) -> None:
    small = small_model(CONFIG)

    def check(name: str | None) -> str | None:
        library = mutants.choose(name)
        return disagreement(small, put_loops(copy.deepcopy(small), library)) or drop_fault(library)

    assert check(None) is None
    for name in MUTATIONS:
        assert check(name) is not None, name


@pytest.mark.parametrize(
    "change",
    [
        {"qk_norm": False},
        {"norm": "layernorm", "feedforward": "gelu", "positions": "learned"},
        {"head_dim": 24, "residual": "parallel", "feedforward": "geglu"},
        {"context_length": 5, "rotary_share": 0.5},
    ],
)
def test_right_loops_pass_whatever_the_model(mutants: Any, change: dict[str, Any]) -> None:
    small = small_model(dataclasses.replace(CONFIG, **change))
    assert disagreement(small, put_loops(copy.deepcopy(small), mutants.choose(None))) is None


def test_wrong_loops_leave_the_model_as_it_is_and_random_numbers_too(
    mutants: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, before = Transformer(CONFIG), torch.get_rng_state()
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    with caplog.at_level(logging.WARNING):
        fuse(model, mutants.choose("softmax, gradient"))
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert "Training runs on PyTorch's operators, without C loops: the C loops compute another" in caplog.text
    fuse(model, mutants.choose(None))
    assert {name: set(vars(module)) for name, module in model.named_modules()} != attributes
    assert torch.equal(torch.get_rng_state(), before)
