"""The KV cache is as large as what is in it, and within its bytes; nothing that is written depends on that."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import shutil
from typing import Any

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import Config, GenerateConfig
from kiara_cli.core.generate import scheduler
from kiara_cli.core.generate.engine import Engine, GenerationRequest, Options
from kiara_cli.core.generate.request import ActiveRequest
from kiara_cli.core.generate.text import options_of
from kiara_cli.core.model.cache import Cache, position_bytes
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.errors import KiaraError

CONFIG = ModelConfig(vocab_size=64, context_length=96, emb_dim=32, n_heads=4, n_kv_heads=2, n_layers=2)
RUNTIME = Runtime(torch.device("cpu"), "fp32", 1)
CPU = torch.device("cpu")
POSITION = position_bytes(CONFIG, torch.float32)
NATIVE = [
    False,
    pytest.param("auto", marks=pytest.mark.skipif(not shutil.which("cc"), reason="there is no compiler")),
]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "FIRST", 8)
    monkeypatch.setattr("kiara_cli.core.generate.engine.READ", 1)


@pytest.fixture
def net() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def asked(count: int, prompt: int = 5, new: int = 60) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            [(7 * k + i) % 64 for i in range(prompt)],
            GenerateConfig(max_new_tokens=new, seed=k, repetition_penalty=1.3),
        )
        for k in range(count)
    ]


def run(engine: Engine, requests: list[GenerationRequest]) -> list[list[int]]:
    """Return what comes of them all, and see that the cache is within its bytes and the slots are used."""
    active = [engine.submit(request) for request in requests]
    while engine.busy:
        engine.step()
        limit = engine.options.cache_bytes
        assert limit is None or engine.slots.cache.bytes <= limit
    return [[token.id for token in request.events] for request in active]


@pytest.mark.parametrize("native", NATIVE)
@pytest.mark.parametrize("cache_dtype", ["auto", "int8"])
def test_a_cache_that_grows_changes_no_token(net: Transformer, native: Any, cache_dtype: Any) -> None:
    options = Options(streams=4, cache_dtype=cache_dtype, native=native)
    engine = Engine(net, RUNTIME, options=options)
    assert (engine.slots.cache.slots, engine.slots.cache.capacity) == (1, 8)
    found = run(engine, asked(6))
    assert (engine.slots.cache.slots, engine.slots.cache.capacity) == (4, 96)
    at_once = Engine(net, RUNTIME, options=options)
    at_once.slots.reserve(4, 96)
    assert run(at_once, asked(6)) == found


@pytest.mark.parametrize("native", NATIVE)
@pytest.mark.parametrize("positions", [96, 130, 200])
def test_where_the_cache_cannot_grow_requests_wait_and_write_the_same(
    net: Transformer, native: Any, positions: int
) -> None:
    free = Engine(net, RUNTIME, options=Options(streams=6, native=native))
    tight = Engine(net, RUNTIME, options=Options(streams=6, native=native, cache_bytes=positions * POSITION))
    assert tight.context == 96
    together = run(tight, asked(6))
    assert together == run(free, asked(6))
    assert max(map(len, together)) == 60


def test_requests_that_wait_again_are_served_in_the_order_in_which_they_came(net: Transformer) -> None:
    engine = Engine(net, RUNTIME, options=Options(streams=6, cache_bytes=130 * POSITION))
    active = [engine.submit(request) for request in asked(5)]
    most, ended = 0, []
    while engine.busy:
        engine.step()
        most = max(most, len(engine.slots.requests))
        ended += [request.number for request in active if request.finished and request.number not in ended]
        held = {request.number for request in engine.slots.requests}
        waiting = [request.number for request in engine.waiting]
        assert waiting == sorted(waiting)
        assert not held or not waiting or max(held) < min(waiting)
    assert most > 2
    assert ended == sorted(ended)


def test_a_cancelled_or_ended_request_leaves_room_for_one_that_waits(net: Transformer) -> None:
    engine = Engine(net, RUNTIME, options=Options(streams=6, cache_bytes=96 * POSITION))
    first, second = (engine.submit(request) for request in asked(2, prompt=60))
    engine.step()
    assert (engine.slots.requests, list(engine.waiting)) == ([first], [second])
    first.cancel()
    engine.step()
    assert engine.slots.requests == [second]


def test_the_context_is_limited_by_the_bytes_and_that_is_said_once(
    net: Transformer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        engine = Engine(net, RUNTIME, options=Options(cache_bytes=40 * POSITION + 7))
        tokens = run(engine, asked(2, new=60))
    assert engine.context == 40
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"The context is limited to 40 of 96 tokens by generate.cache_bytes={40 * POSITION + 7}."]
    uncached = Engine(net, RUNTIME, options=Options(cache=False, cache_bytes=40 * POSITION))
    assert run(uncached, asked(2, new=60)) == tokens
    with pytest.raises(KiaraError, match=f"enough for 1 of 96 tokens; set it to {2 * POSITION} or more"):
        Engine(net, RUNTIME, options=Options(cache_bytes=2 * POSITION - 1))


def test_a_long_context_costs_what_is_used_of_it() -> None:
    """128 K tokens of a model of 1.3 million weights took 268 MB a sequence before the first one was read."""
    config = ModelConfig(
        vocab_size=64, context_length=131_072, emb_dim=32, n_heads=4, n_layers=2, positions="learned", tied_head=True
    )
    options = options_of(dataclasses.replace(Config(), model=config))
    engine = Engine(Transformer(config), RUNTIME, options=options)
    assert engine.context == 131_072
    assert engine.slots.cache.bytes == 8 * position_bytes(config, torch.float32)
    run(engine, asked(3, new=20))
    assert engine.slots.cache.bytes == 4 * 32 * position_bytes(config, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_resizing_keeps_what_is_there_and_never_holds_two_copies(dtype: torch.dtype) -> None:
    config = dataclasses.replace(CONFIG, n_layers=12)
    cache = Cache(config, 2, CPU, dtype, 32)
    assert cache.bytes == 2 * 32 * position_bytes(config, dtype)
    parts = [part for parts in cache.layers for part in parts]
    for part in parts:
        part.copy_(torch.randn(part.shape).mul(50))
    before, held = [part.clone() for part in parts], sum(part.nbytes for part in parts)
    del parts[:]
    most = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal most
            out = function(*args, **(kwargs or {}))
            if function is torch.Tensor.new_zeros:
                most = max(most, cache.bytes + out.nbytes)
            return out

    with Watch():
        cache.resize(3, 64)
    assert most <= cache.bytes + cache.layers[0][0].nbytes
    assert held < cache.bytes
    for old, new in zip(before, itertools.chain(*cache.layers), strict=True):
        assert torch.equal(new[:2, :, :32], old)
        assert not new[2:].any()
        assert not new[:, :, 32:].any()


def test_a_request_that_ended_leaves_no_trace_in_its_slot() -> None:
    slots = scheduler.Slots(CONFIG, 2, CPU, torch.float32)
    first, second = (ActiveRequest(request, torch.zeros(64, dtype=torch.bool)) for request in asked(2))
    assert slots.admit(first, 8)
    assert slots.admit(second, 8)
    assert not slots.admit(first, 8)
    for part in slots.cache.layers[0]:
        part[0], part[1] = float("nan"), 2.0
    second.filled = 3
    slots.free(first, clean=True)
    assert slots.requests == [second]
    for part in slots.cache.layers[0]:
        assert bool((part[0, :, :3] == 2).all())
        assert not part[0, :, 3:].any()
