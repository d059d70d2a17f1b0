"""Which architecture expresses a model, and which options stand in the way."""

from __future__ import annotations

import re

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.checkpoint.files import weights_of
from kiara_cli.core.export import names
from kiara_cli.core.export.architectures import NEEDS, as_architecture, choose, shapes
from kiara_cli.core.export.gguf import LACKING
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError


def test_the_default_is_a_qwen3_for_both() -> None:
    assert choose(ModelConfig(), "transformers") == choose(ModelConfig(), "GGUF", LACKING) == "qwen3"


def test_every_combination_of_options_is_expressed_or_refused_with_one_that_would_be(
    every_model: list[ModelConfig],
) -> None:
    words = {"true": True, "false": False, "null": None}
    found = dict.fromkeys([*NEEDS, "none"], 0)
    for config in every_model:
        refused = None
        try:
            found[choose(config, "transformers")] += 1
        except KiaraError as error:
            refused = error
        if refused is not None:
            found["none"] += 1
            wants = dict(re.findall(r"model\.(\w+)=(\w+)", refused.remedy))
            assert wants
            assert all(f"model.{key}=" in refused.cause for key in wants)
            changed = {
                key: words.get(value, int(value) if value.isdigit() else value) for key, value in wants.items()
            }
            choose(ModelConfig(**{**vars(config), **changed}), "transformers")
    assert found == {
        "qwen3": 5,
        "llama": 9,
        "mistral": 0,
        "qwen2": 1,
        "gemma": 1,
        "gpt2": 16,
        "gpt_neox": 9,
        "none": 294 - 41,
    }


def test_options_that_stand_in_the_way_are_named() -> None:
    config = ModelConfig(norm="layernorm", bias=True)
    with pytest.raises(KiaraError, match=r"cannot express .*model.norm=layernorm.*train with .*model.norm=rmsnorm"):
        choose(config, "transformers")
    squared = ModelConfig(positions="learned", norm="layernorm", feedforward="relu2", qk_norm=False)
    assert choose(squared, "transformers") == "gpt2"
    with pytest.raises(KiaraError, match="GGUF has no .*model.feedforward=relu2.*model.feedforward=gelu"):
        choose(squared, "GGUF", LACKING)


def test_names_lead_there_and_back_for_every_model_that_can_be_expressed(every_model: list[ModelConfig]) -> None:
    for config in every_model:
        try:
            architecture = choose(config, "transformers")
        except KiaraError:
            continue
        own = weights_of(Transformer(config))
        full, filled = as_architecture(config, own, architecture)
        assert {name: tensor.shape for name, tensor in filled.items()} == shapes(full)
        for table in (names.HUGGINGFACE, names.GGUF):
            linked = names.links(full, shapes(full), table[architecture])
            theirs = names.to_theirs(filled, linked)
            back = names.to_ours(theirs, linked, shapes(full), "x")
            assert all(torch.equal(back[name], tensor) for name, tensor in filled.items())
