import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.generate.embed import embed
from kiara_cli.core.generate.engine import Engine
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime


def test_a_vector_is_the_mean_of_the_states_at_length_1(tiny: ModelConfig) -> None:
    torch.manual_seed(0)
    model = Transformer(tiny).eval()
    engine = Engine(model, Runtime(torch.device("cpu"), "fp32", 1))
    with torch.no_grad():
        mean = model.states(torch.tensor([[1, 2, 3]]))[0].mean(dim=0)
    assert embed(engine, [1, 2, 3]) == pytest.approx((mean / mean.norm()).tolist(), abs=1e-6)
