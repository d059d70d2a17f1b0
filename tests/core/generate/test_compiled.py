import dataclasses
import itertools
import shutil
import tempfile
from ctypes import CDLL
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.generate import compiled
from kiara_cli.core.generate.compiled import Compiled
from kiara_cli.core.generate.engine import Engine, GenerationRequest, Options
from kiara_cli.core.generate.step import weights_of
from kiara_cli.core.model.cache import Cache
from kiara_cli.core.model.fastpath import unknown_settings
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize.apply import in_dtype, quantize
from kiara_cli.core.quantize.scheme import Scheme
from kiara_cli.core.runtime import native
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.errors import KiaraError

RUNTIME = Runtime(torch.device("cpu"), "fp32", 1)
GREEDY = GenerateConfig(max_new_tokens=40, temperature=0)
CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="there is no compiler")
MEMORIES = {torch.float32: 1e-5, torch.bfloat16: 0.03, torch.int8: 0.05}  # and how far scores of 1 may be off


@pytest.fixture(scope="session", params=["this processor", "any processor"])
def library(request: pytest.FixtureRequest, _compiled: Path) -> CDLL:
    """The library as it is made here, and as it is where none multiplies pairs of bf16; threads that wait sleep."""
    source = compiled.SOURCE.read_text()
    for ours, other in (("#define PAIRS 1", "#define PAIRS 0"), ("SPINS = 4000", "SPINS = 0")):
        assert ours in source
        source = source.replace(ours, other)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("KIARA_CACHE", str(_compiled.parent))  # made once for all processes of the tests
        if request.param == "this processor":
            return compiled.load()
        plain = Path(folder, "plain.c")
        plain.write_text(source)
        return native.build(plain, compiled.SIGNATURES)


def random(config: ModelConfig, seed: int = 0) -> Transformer:
    """Return a model in which every weight matters, biases and norms as well."""
    torch.manual_seed(seed)
    net = Transformer(config).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net


def read(net: Transformer, texts: list[list[int]], dtype: torch.dtype) -> Cache:
    """Return a cache in whose rows all but the last id of each text were read."""
    cache = Cache(net.config, len(texts), CPU, dtype)
    for row, text in enumerate(texts):
        with torch.no_grad():
            net.states(torch.tensor([text[:-1]]), cache.slot(row, 0))
    return cache


def write(library: CDLL, net: Transformer, texts: list[list[int]], dtype: torch.dtype, threads: int = 1) -> Tensor:
    """Return the scores after each text."""
    step = Compiled(library, net.config, weights_of(net), read(net, texts, dtype), threads)
    last = [len(text) - 1 for text in texts]
    return step([text[-1] for text in texts], list(range(len(texts))), last)


TEXTS = [[5, 9, 2, 7], [1, 2], [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], [8, 8, 8], [60, 61, 62, 63, 7]]


@needs_compiler
def test_it_computes_what_every_model_does(library: CDLL, every_model: list[ModelConfig]) -> None:
    for config in (config for config in every_model if not unknown_settings(config)):
        net = random(config)
        with torch.no_grad():
            expected = torch.cat([net(torch.tensor([text]))[:, -1] for text in TEXTS])
        assert torch.allclose(write(library, net, TEXTS, torch.float32), expected, rtol=1e-4, atol=1e-4), config


@needs_compiler
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize(("width", "heads", "kv"), [(32, 4, 2), (48, 4, 2), (72, 4, 4), (192, 6, 1)])
def test_memories_of_other_numbers_odd_widths_and_many_queries_for_one_key(
    library: CDLL, memory: torch.dtype, width: int, heads: int, kv: int
) -> None:
    config = ModelConfig(vocab_size=61, context_length=16, emb_dim=width, n_heads=heads, n_kv_heads=kv, n_layers=2)
    net = random(config)
    texts = [[i % 61 for i in text] for text in TEXTS]
    with torch.no_grad():
        expected = torch.cat([net(torch.tensor([text]))[:, -1] for text in texts])
    found = write(library, net, texts, memory)
    assert (found - expected).abs().max() <= MEMORIES[memory] * expected.abs().max()


@needs_compiler
def test_what_many_texts_left_behind_does_not_reach_the_next_few(library: CDLL) -> None:
    config = ModelConfig(vocab_size=64, context_length=16, emb_dim=40, n_heads=4, n_layers=2, hidden_dim=50)
    net = in_dtype(random(config), torch.bfloat16)
    cache = read(net, TEXTS, torch.bfloat16)
    step, last = Compiled(library, config, weights_of(net), cache, 1), [len(text) - 1 for text in TEXTS]
    tokens, rows = [text[-1] for text in TEXTS], list(range(len(TEXTS)))
    alone = step(tokens[:1], rows[:1], last[:1])
    together = step(tokens, rows, last)
    assert torch.equal(together[:1], alone)
    for row in rows:
        assert torch.equal(step(tokens[row : row + 1], [row], last[row : row + 1])[0], together[row])


@needs_compiler
@pytest.mark.parametrize("kind", ["fp32", "bf16", "8", "4"])
def test_scores_are_the_same_bits_alone_in_company_and_with_more_threads(library: CDLL, kind: str) -> None:
    config = ModelConfig(vocab_size=64, context_length=16, emb_dim=64, n_heads=4, n_layers=2, hidden_dim=96)
    net = random(config)
    if kind in "84":
        list(quantize(net, Scheme(int(kind), "rtn", 32, int(kind), int(kind))))
    net = in_dtype(net, torch.float32 if kind == "fp32" else torch.bfloat16)
    dtype = torch.float32 if kind == "fp32" else torch.bfloat16
    together = write(library, net, TEXTS, dtype)
    for row, text in enumerate(TEXTS):
        for threads in (1, 2, 3):
            assert torch.equal(write(library, net, [text], dtype, threads)[0], together[row]), (text, threads)
    with torch.no_grad():
        expected = torch.cat([net(torch.tensor([text]))[:, -1].float() for text in TEXTS])
    assert (together - expected).abs().max() <= (1e-5 if kind == "fp32" else 0.05) * expected.abs().max()


@needs_compiler
@pytest.mark.parametrize("cache_dtype", ["auto", "int8"])
def test_an_engine_writes_the_same_tokens_with_it(tiny: ModelConfig, cache_dtype: str) -> None:
    net = random(dataclasses.replace(tiny, tied_head=False), 3)
    plain = Options(cache_dtype=cache_dtype)  # type: ignore[arg-type]
    expected = list(Engine(net, RUNTIME, options=plain).generate([1, 2], GREEDY))
    engine = Engine(net, RUNTIME, options=dataclasses.replace(plain, native=True))
    assert engine.backend.compiled is not None
    assert list(engine.generate([1, 2], GREEDY)) == expected
    several = [
        engine.submit(GenerationRequest([1, 2], GREEDY)) for _ in range(3)
    ]  # the cache grows, and the code is bound anew
    while engine.busy:
        engine.step()
    assert all(list(one.events) == expected for one in several)


@needs_compiler
def test_in_bf16_a_text_is_the_same_alone_and_among_others(tiny: ModelConfig) -> None:
    net = random(dataclasses.replace(tiny, context_length=64, tied_head=False), 4)
    runtime = Runtime(torch.device("cpu"), "bf16", 2)
    options = Options(streams=8, native=True)
    asked = [GenerationRequest([1 + row, 2, 3 * row][: 1 + row % 3], GREEDY) for row in range(12)]
    alone = [list(Engine(net, runtime, options=options).generate(w.prompt, GREEDY)) for w in asked]
    engine = Engine(net, runtime, options=options)
    together = [engine.submit(asked) for asked in asked]
    while engine.busy:
        engine.step()
    assert [list(request.events) for request in together] == alone
    assert len({token.id for tokens in alone for token in tokens}) > 10  # a model that repeats itself proves nothing


@needs_compiler
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("cache_dtype", ["fp32", "bf16", "int8"])
def test_right_code_is_used_whatever_the_numbers(
    tiny: ModelConfig, dtype: Any, bits: int | None, cache_dtype: Any
) -> None:
    net = random(tiny)
    if bits is not None:
        list(quantize(net, Scheme(bits, "rtn", 32, bits, bits)))
    engine = Engine(net, Runtime(CPU, dtype, 1), options=Options(native=True, cache_dtype=cache_dtype))
    assert engine.backend.name.startswith("C (")


@needs_compiler
@pytest.mark.parametrize("where", [(64, 0, 3), (-1, 0, 3), (1, 2, 3), (1, 0, 16), (1, 0, -1)])
def test_no_id_slot_or_position_outside_of_memory_reaches_c(tiny: ModelConfig, where: tuple[int, int, int]) -> None:
    net = Transformer(tiny)
    step = Compiled(compiled.load(), tiny, weights_of(net), Cache(tiny, 2, CPU, torch.float32), 1)
    step([63], [1], [15])
    with pytest.raises(IndexError, match="from 0 to"):
        step(*([number] for number in where))


@needs_compiler
def test_groups_of_columns_that_it_does_not_know_are_left_to_torch(tiny: ModelConfig) -> None:
    net = random(tiny)
    list(quantize(net, Scheme(4, "rtn", 16, 4, 4)))
    engine = Engine(net, RUNTIME, options=Options(native=True))
    assert engine.backend.compiled is None
    assert len(list(engine.generate([1], GREEDY))) == 40


@needs_compiler
def test_compiled_code_that_computes_wrongly_is_not_used(tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Compiled.__call__
    monkeypatch.setattr(Compiled, "__call__", lambda self, *places: right(self, *places) * 1.01)
    engine = Engine(Transformer(tiny), RUNTIME, options=Options(native="auto"))
    assert engine.backend.compiled is None
    with pytest.raises(KiaraError, match="computes other scores than torch"):
        Engine(Transformer(tiny), RUNTIME, options=Options(native=True))


def test_without_a_compiler_torch_writes_or_the_error_says_so(
    tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("KIARA_CACHE", "empty")
    monkeypatch.setattr(native, "_loaded", {})
    engine = Engine(Transformer(tiny), RUNTIME, options=Options(native="auto"))
    assert engine.backend.compiled is None
    assert len(list(engine.generate([1], GREEDY))) == 40
    with pytest.raises(KiaraError, match="cannot be honoured: no C compiler"):
        Engine(Transformer(tiny), RUNTIME, options=Options(native=True))


@needs_compiler
def test_threads_come_and_go_between_steps_and_no_token_changes(tiny: ModelConfig) -> None:
    net, runtime = random(tiny), Runtime(CPU, "fp32", 3, adaptive=True)
    counts, written = itertools.cycle([1, 3, 2]), []
    for changes in (False, True):
        engine = Engine(net, runtime, options=Options(native=True))
        together = [engine.submit(GenerationRequest(text, GREEDY)) for text in TEXTS]
        while engine.busy:
            if changes:
                engine.threads.count = next(counts)
            engine.step()
        written.append([request.ids for request in together])
    assert written[0] == written[1]


@needs_compiler
def test_more_threads_get_more_workspace(library: CDLL, tiny: ModelConfig) -> None:
    net = random(tiny)
    step, sizes = Compiled(library, tiny, weights_of(net), read(net, TEXTS, torch.float32), 1), []
    for threads in (1, 3, 2):
        step.use(threads)
        step([1], [0], [0])
        sizes.append(step._workspace.numel())
    assert sizes[0] < sizes[1] == sizes[2]
