"""A wrong function in the compiled decode step is noticed before it computes a token."""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.generate import compiled
from kiara_cli.core.generate.step import weights_of
from kiara_cli.core.generate.verify import disagreement
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize.apply import in_dtype

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="there is no compiler")

MUTATIONS = {
    "norm": ("sqrtf(square / width + eps)", "sqrtf(square / width * (WRONG ? 1.2f : 1.0f) + eps)"),
    "layer norm": ("mean /= width;", "mean /= WRONG ? 2 * width : width;"),
    "norm bias": ("y[i] += norm->bias[i];", "y[i] += WRONG ? 0 : norm->bias[i];"),
    "query and key norm": ("if (norm->weight) {", "if (norm->weight && !WRONG) {"),
    "rotary sign": ("a * cosine[i] - b * sine[i];", "a * cosine[i] + (WRONG ? b : -b) * sine[i];"),
    "rotary position": ("plan->rotary + position *", "plan->rotary + (WRONG ? position % 32 : position) *"),
    "softmax maximum": ("fast_exp(x[i] - most);", "fast_exp(x[i] - (WRONG && i > 32 ? 0 : most));"),
    "softmax sum": ("x[i] /= total;", "x[i] /= WRONG && i > 31 ? 2 * total : total;"),
    "scale of scores": ("scale = 1.0f / sqrtf(C);", "scale = WRONG ? 1.0f / C : 1.0f / sqrtf(C);"),
    "weighted sum, by four": ("for (; s + 4 <= S; s += 4)", "for (s = WRONG && S > 32 ? 4 : 0; s + 4 <= S; s += 4)"),
    "weighted sum, the rest": (
        "Pair some = wide(kind, at + s * row);",
        "Pair some = wide(kind, at + (s - WRONG) * row);",
    ),
    "stored position": ("values, value_scales, position, C);", "values, value_scales, WRONG ? 0 : position, C);"),
    "exp": ("p = 0.693147180f", "p = (WRONG ? 0.75f : 0.693147180f)"),
    "swiglu": ("y[i] = x[i] / (1.0f + fast_exp(-x[i]))", "y[i] = (WRONG ? 1.0f : x[i]) / (1.0f + fast_exp(-x[i]))"),
    "gelu": ("0.044715f", "(WRONG ? 0.05f : 0.044715f)"),
    "relu2": ("x[i] > 0 ? x[i] * x[i]", "x[i] > (WRONG ? -1 : 0) ? x[i] * x[i]"),
    "product": (
        "float scale = m->scales ? m->scales[(n + r) * groups + g] : 1.0f;",
        "float scale = m->scales ? m->scales[(n + r) * groups + g] : WRONG && n == 4 ? 0.5f : 1.0f;",
    ),
    "layer": ("= &plan->layer[index];", "= &plan->layer[WRONG ? 0 : index];"),  # the small model has one alone
    "bias": ("if (m->bias) memcpy(&bias", "if (m->bias && !WRONG) memcpy(&bias"),
    "embedding": ("x[k + i] = each[i] * scale", "x[k + i] = each[i] * (WRONG ? 1.1f : scale)"),
    "learned position": ("plan->added[position * D", "plan->added[(WRONG ? 0 : position) * D"),
}
LLAMA = ModelConfig(vocab_size=64, context_length=96, emb_dim=64, n_heads=2, n_layers=2)
GPT = dataclasses.replace(
    LLAMA, norm="layernorm", positions="learned", feedforward="gelu", bias=True, norm_eps=1e-5, hidden_dim=128
)
NOT_LLAMAS = {"layer norm", "norm bias", "gelu", "relu2", "bias", "learned position"}
NOT_GPTS = {"query and key norm", "rotary sign", "rotary position", "swiglu", "relu2"}


@pytest.fixture(scope="session")
def mutants(build_mutants: Any) -> Any:
    return build_mutants(compiled.SOURCE, compiled.SIGNATURES, MUTATIONS)


def check(mutants: Any, name: str | None, config: ModelConfig, dtype: torch.dtype) -> str | None:
    torch.manual_seed(0)
    weights = weights_of(in_dtype(Transformer(config), dtype))
    return disagreement(mutants.choose(name), config, weights, dtype, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_wrong_function_of_the_decode_step_is_caught(mutants: Any, dtype: torch.dtype) -> None:
    for config, others in (
        (LLAMA, NOT_LLAMAS),
        (dataclasses.replace(GPT, qk_norm=False), NOT_GPTS),
        (dataclasses.replace(LLAMA, feedforward="relu2", head_dim=20), MUTATIONS.keys() - {"relu2"}),
    ):
        assert check(mutants, None, config, dtype) is None, config
        for name in MUTATIONS.keys() - others:
            why = check(mutants, name, config, dtype)
            assert why is not None, (name, config)
            assert "computes other scores than torch" in why


def test_a_model_whose_scores_are_no_numbers_is_not_compared(mutants: Any) -> None:
    net = Transformer(LLAMA)
    torch.nn.init.constant_(net.norm.weight, float("nan"))
    found = disagreement(mutants.choose(None), LLAMA, weights_of(net), torch.float32, torch.float32)
    assert found == "the model's scores are not finite numbers"
