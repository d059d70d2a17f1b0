import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from kiara_cli.config.schema import GenerateConfig, ModelConfig
from kiara_cli.core.generate.compiled import Fused, OneText
from kiara_cli.core.generate.engine import Engine, Options, Wish
from kiara_cli.core.generate.step import weights_of
from kiara_cli.core.model.cache import Cache
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime

RUNTIME = Runtime(torch.device("cpu"), "fp32", 1)
GREEDY = GenerateConfig(max_new_tokens=40, temperature=0)


def test_the_lines_to_be_compiled_compute_what_the_model_does(every_model: list[ModelConfig]) -> None:
    for config in every_model:
        net = Transformer(config).eval()
        cache, ids = Cache(config, 1, net.device, torch.float32), torch.tensor([[5, 9, 2, 7]])
        with torch.no_grad():
            net.states(ids[:, :3], cache)
            memory = [[part[layer] for part in cache.parts] for layer in range(config.n_layers)]
            out = OneText(config)(ids[0, 3:], torch.arange(4), memory, dict(weights_of(net)))
            assert torch.allclose(out, net(ids)[:, -1], atol=1e-5), config


def test_fused_products_add_their_bias() -> None:
    x, weight, bias = torch.randn(1, 8), torch.randn(3, 8), torch.randn(3)
    expected = torch.nn.functional.linear(x, weight, bias)
    assert torch.allclose(Fused().product(x, weight, bias), expected, atol=1e-5)


def test_auto_does_not_compile_and_writes_all_the_same(tiny: ModelConfig) -> None:
    engine = Engine(Transformer(tiny), RUNTIME, options=Options(compile="auto", compile_folder=Path("cache")))
    assert engine.machine_code is None
    assert len(list(engine.generate([1], GREEDY))) == 40
    assert not Path("cache").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="there is no compiler")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"cache_dtype": "int8"}])
def test_a_compiled_step_is_kept_and_writes_the_same_tokens(tiny: ModelConfig, options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    net = Transformer(tiny)
    expected = list(Engine(net, RUNTIME, options=Options(**options)).generate([1, 2], GREEDY))
    folder = Path("cache")
    built = Engine(net, RUNTIME, options=Options(compile=True, compile_folder=folder, **options))
    assert list(built.generate([1, 2], GREEDY)) == expected
    found = Engine(net, RUNTIME, options=Options(compile="auto", compile_folder=folder, **options))
    assert found.machine_code is not None
    several = [found.submit(Wish([1, 2], GREEDY)) for _ in range(3)]  # the cache grows, and the code is bound anew
    while found.busy:
        found.step()
    assert all(list(one.events) == expected for one in several)
    assert list(found.generate([1, 2], GREEDY)) == expected
    (kept,) = folder.glob("*.pt2")
    kept.write_bytes(kept.read_bytes()[:-1])
    assert (
        Engine(net, RUNTIME, options=Options(compile="auto", compile_folder=folder, **options)).machine_code is None
    )
