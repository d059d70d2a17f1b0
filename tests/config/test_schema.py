"""Every setting has a range, and a mistake names the nearest value that works."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.config.model import ModelConfig, nearest_multiple
from kiara_cli.config.schema import Config, DataConfig, GenerateConfig, RuntimeConfig, TokenizerConfig, TrainConfig
from kiara_cli.errors import KiaraError


def test_the_defaults_are_valid() -> None:
    assert Config().model.head_dim == 32


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().model.n_layers = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("section", "values", "key", "nearest"),
    [
        (ModelConfig, {"n_layers": 0}, "model.n_layers", "1"),
        (ModelConfig, {"context_length": 1}, "model.context_length", "2"),
        (ModelConfig, {"drop_rate": 1.5}, "model.drop_rate", "1"),
        (DataConfig, {"val_fraction": 0.0}, "data.val_fraction", "0.0001"),
        (DataConfig, {"stride": 0}, "data.stride", "1"),
        (TokenizerConfig, {"vocab_size": 10}, "tokenizer.vocab_size", "300"),
        (TrainConfig, {"beta2": 1.0}, "train.beta2", "0.9999"),
        (GenerateConfig, {"temperature": -1.0}, "generate.temperature", "0"),
        (RuntimeConfig, {"threads": 0}, "runtime.threads", "1"),
        (RuntimeConfig, {"seed": 2**63}, "runtime.seed", str(2**63 - 1)),
    ],
)
def test_a_value_out_of_range_names_its_key_and_the_nearest_value(
    section: type[Any], values: dict[str, Any], key: str, nearest: str
) -> None:
    with pytest.raises(KiaraError) as caught:
        section(**values)
    assert caught.value.key == key
    assert caught.value.cause.startswith(f"{key}=")
    assert caught.value.remedy.endswith(f"the nearest is {nearest}")


@pytest.mark.parametrize("value", [0.0, -1e-3])
def test_a_learning_rate_must_be_above_zero(value: float) -> None:
    with pytest.raises(KiaraError, match="it must be above 0"):
        TrainConfig(lr=value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(KiaraError, match="not a finite number"):
        TrainConfig(lr=value)


def test_a_width_that_heads_do_not_divide_is_answered_with_the_nearest_that_they_do() -> None:
    with pytest.raises(KiaraError, match=r"not divisible by model.n_heads=6.*model.emb_dim=192"):
        ModelConfig(emb_dim=190, n_heads=6)


def test_key_heads_must_divide_the_heads() -> None:
    with pytest.raises(KiaraError, match=r"n_kv_heads=4; the nearest valid value is model.n_kv_heads=3"):
        ModelConfig(emb_dim=192, n_heads=6, n_kv_heads=4)


def test_rotary_positions_refuse_an_odd_head_width() -> None:
    with pytest.raises(KiaraError, match="needs pairs of channels"):
        ModelConfig(emb_dim=18, n_heads=6)
    assert ModelConfig(emb_dim=18, n_heads=6, positions="learned").head_dim == 3


def test_sinusoidal_positions_refuse_an_odd_width() -> None:
    with pytest.raises(KiaraError, match="needs pairs of channels"):
        ModelConfig(emb_dim=15, n_heads=5, positions="sinusoidal")
    assert ModelConfig(emb_dim=10, n_heads=2, positions="sinusoidal").head_dim == 5


@given(
    emb_dim=st.integers(1, 400),
    n_heads=st.integers(1, 16),
    positions=st.sampled_from(["rotary", "learned", "sinusoidal"]),
)
def test_the_width_that_an_error_proposes_is_valid(emb_dim: int, n_heads: int, positions: Any) -> None:
    try:
        ModelConfig(emb_dim=emb_dim, n_heads=n_heads, positions=positions)
    except KiaraError as error:
        proposed = int(error.remedy.rpartition("=")[2])
        assert ModelConfig(emb_dim=proposed, n_heads=n_heads, positions=positions).emb_dim == proposed


def test_the_hidden_width_follows_the_feedforward() -> None:
    assert ModelConfig(emb_dim=192).hidden_dim == 512
    assert ModelConfig(emb_dim=192, feedforward="gelu").hidden_dim == 768
    assert ModelConfig(emb_dim=192, hidden_dim=100).hidden_dim == 100


def test_what_is_derived_follows_a_change_and_what_was_given_stays() -> None:
    config = ModelConfig(emb_dim=64, n_heads=4, hidden_dim=100)
    wider = config.replace(emb_dim=96, n_heads=8, norm="layernorm")
    assert (wider.n_kv_heads, wider.head_dim, wider.hidden_dim, wider.norm_eps) == (8, 12, 100, 1e-5)
    assert config.replace(n_kv_heads=2).replace(emb_dim=128).n_kv_heads == 2
    assert wider.replace(hidden_dim=0).hidden_dim == 256


def test_threads_are_a_number_or_auto() -> None:
    assert RuntimeConfig(threads=3).threads == 3
    with pytest.raises(KiaraError, match="a number of threads, or auto"):
        RuntimeConfig(threads="many")


@given(st.integers(1, 10_000), st.integers(1, 100))
def test_the_nearest_multiple_is_positive_and_at_most_half_a_step_away(value: int, of: int) -> None:
    nearest = nearest_multiple(value, of)
    assert nearest % of == 0
    assert nearest >= of
    assert abs(nearest - value) <= max(of / 2, of - value)


def test_heads_may_have_a_width_of_their_own() -> None:
    config = ModelConfig(emb_dim=50, n_heads=4, head_dim=32)
    assert config.head_dim == 32
    assert ModelConfig().head_dim == 32
    with pytest.raises(KiaraError, match=r"model.head_dim=33 is odd; .*model.head_dim=34"):
        ModelConfig(head_dim=33)
    assert ModelConfig(head_dim=33, positions="learned").head_dim == 33


def test_norms_add_what_the_config_says_or_what_is_usual_for_them() -> None:
    assert ModelConfig().norm_eps == 1e-6
    assert ModelConfig(norm="layernorm").norm_eps == 1e-5
    assert ModelConfig(norm_eps=1e-3).norm_eps == 1e-3
