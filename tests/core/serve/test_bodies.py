from __future__ import annotations

import dataclasses

import pytest
from pydantic import ValidationError

from kiara_cli.config.keys import limits
from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.serve.bodies import Settings
from kiara_cli.errors import KiaraError

SHARED = sorted({item.name for item in dataclasses.fields(GenerateConfig)} & Settings.model_fields.keys())
RANGED = [name for name in SHARED if name not in ("seed", "stop", "top_k")]  # of these OpenAI's words mean more


@pytest.mark.parametrize("name", RANGED)
def test_a_number_is_refused_by_the_server_where_a_config_refuses_it_and_nowhere_else(name: str) -> None:
    low, high, _ = limits(f"generate.{name}")
    assert low is not None
    assert high is not None
    for value in (float(low), float(high)):
        assert getattr(Settings(**{name: value}), name) == getattr(GenerateConfig(**{name: value}), name) == value  # type: ignore[arg-type]
    for value in (low - 0.001, high + 0.001):
        with pytest.raises(ValidationError):
            Settings(**{name: value})  # type: ignore[arg-type]
        with pytest.raises(KiaraError, match=f"generate.{name}"):
            GenerateConfig(**{name: value})  # type: ignore[arg-type]
