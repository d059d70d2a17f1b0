from __future__ import annotations

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.generate import score
from kiara_cli.core.generate.engine import Engine, Options
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.errors import KiaraError


def engine_of(dtype: str = "fp32", **settings: object) -> Engine:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=40, context_length=64, emb_dim=32, n_heads=4, n_layers=2, **settings)  # type: ignore[arg-type]
    return Engine(Transformer(config), Runtime(torch.device("cpu"), dtype, 1), options=Options())  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{}, {"positions": "learned", "n_kv_heads": 2}])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_prompts_are_scored_as_by_one_pass_and_in_bounded_memory(
    monkeypatch: pytest.MonkeyPatch, dtype: str, settings: dict[str, object]
) -> None:
    engine = engine_of(dtype, **settings)
    monkeypatch.setattr(score, "PASS", 12)
    monkeypatch.setattr(score, "ROWS", 5)
    rows: list[int] = []
    engine.model.head.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[0]))
    for length in (1, 2, 16, 17, 18, 40, 64):
        ids = torch.randint(40, (length,)).tolist()
        scorer, steps = score.Scorer(engine, ids, 3), 0
        while not scorer.done:
            scorer.step()
            steps += 1
        assert steps == -(-(length - 1) // 12)
        assert max(rows, default=0) <= 5
        assert [token.id for token in scorer.tokens] == ids
        assert scorer.tokens[0].logprob is None
        with torch.inference_mode():
            expected = engine.original(torch.tensor([ids]))[0].log_softmax(-1)
        for place, token in enumerate(scorer.tokens[1:]):
            assert token.logprob == pytest.approx(
                float(expected[place, token.id]), abs=1e-4 if dtype == "fp32" else 0.1
            )
            assert len(token.top) == 3
            assert [p for _, p in token.top] == sorted((p for _, p in token.top), reverse=True)
            if dtype == "fp32":
                assert [i for i, _ in token.top] == expected[place].topk(3).indices.tolist()


def test_scores_that_are_no_numbers_are_an_error() -> None:
    engine = engine_of()
    with torch.no_grad():
        engine.model.norm.weight.fill_(float("nan"))
    with pytest.raises(KiaraError, match="not finite numbers"):
        score.Scorer(engine, [1, 2], 0).step()
