from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.config.schema import GenerateConfig, ModelConfig
from kiara_cli.core.generate.engine import Engine, Token, window_start
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.errors import KiaraError

V, CONTEXT = 64, 16
RUNTIME = Runtime(torch.device("cpu"), "fp32", 1)
GREEDY = GenerateConfig(max_new_tokens=2 * CONTEXT, temperature=0)
VARIED = replace(GREEDY, repetition_penalty=3.0)
OPTIONS = list(
    product(
        ["rotary", "learned", "sinusoidal"],
        ["rmsnorm", "layernorm"],
        ["swiglu", "gelu", "relu2"],
        [4, 2, 1],
        [True, False],
    )
)


def model(**options: Any) -> Transformer:
    """Return a small model whose scores are far enough apart for greedy choices not to hang on rounding."""
    torch.manual_seed(0)
    sizes = {"vocab_size": V, "context_length": CONTEXT, "emb_dim": 32, "n_heads": 4, "n_layers": 2}
    out = Transformer(ModelConfig(**(sizes | {"tied_head": False} | options)))
    with torch.no_grad():
        for parameter in out.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return out


def ids(engine: Engine, prompt: list[int], config: GenerateConfig, stop: frozenset[int] = frozenset()) -> list[int]:
    return [token.id for token in engine.generate(prompt, config, stop)]


@pytest.mark.parametrize(("positions", "norm", "feedforward", "kv", "qk_norm"), OPTIONS)
def test_the_cache_changes_no_token_of_any_model_also_beyond_the_context(
    positions: str, norm: str, feedforward: str, kv: int, qk_norm: bool
) -> None:
    options = {"positions": positions, "norm": norm, "feedforward": feedforward, "qk_norm": qk_norm}
    net = model(**options, n_kv_heads=kv)
    fast = ids(Engine(net, RUNTIME), [1, 2, 3], VARIED)
    assert fast == ids(Engine(net, RUNTIME, use_cache=False), [1, 2, 3], VARIED)
    assert len(set(fast)) > 8  # a model that repeats itself would prove nothing


@pytest.mark.parametrize("length", [1, 2, CONTEXT - 1, CONTEXT, CONTEXT + 1, 3 * CONTEXT + 5])
@pytest.mark.parametrize("context", [CONTEXT, 5, 2])
def test_the_cache_changes_no_sampled_token_for_any_length_of_prompt(length: int, context: int) -> None:
    net = model(context_length=context)
    prompt = [(7 * i) % V for i in range(length)]
    config = GenerateConfig(max_new_tokens=40, temperature=1.0, seed=3, repetition_penalty=1.2)
    fast = ids(Engine(net, RUNTIME), prompt, config)
    assert fast == ids(Engine(net, RUNTIME, use_cache=False), prompt, config)


def test_each_token_is_the_best_one_after_the_window_that_the_policy_names() -> None:
    net = model().eval()
    text = [1, 2, 3]
    for token in Engine(net, RUNTIME).generate(text[:], GREEDY):
        window = text[window_start(len(text), CONTEXT) :]
        with torch.no_grad():
            assert token.id == int(net(torch.tensor([window]))[0, -1].argmax())
        text.append(token.id)


@given(st.integers(0, 5000), st.integers(2, 300))
def test_the_window_fits_and_holds_at_least_half_a_context(length: int, context: int) -> None:
    start = window_start(length, context)
    assert start % (context // 2) == 0
    assert length - start <= context
    assert start == 0 if length <= context else length - start > context - context // 2


def test_the_cache_is_read_anew_only_every_half_context(monkeypatch: pytest.MonkeyPatch) -> None:
    net, read = model(), []
    states = net.states
    monkeypatch.setattr(net, "states", lambda ids, cache: read.append(ids.shape[1]) or states(ids, cache))
    ids(Engine(net, RUNTIME), [1, 2, 3], GenerateConfig(max_new_tokens=40, temperature=0))
    half = CONTEXT // 2
    assert read[0] == 3
    assert [i for i, n in enumerate(read[1:]) if n > 1] == list(range(CONTEXT - 3, 39, half))
    assert {n for n in read[1:]} == {1, half + 1}


def test_the_same_seed_gives_the_same_tokens_and_no_seed_gives_fresh_ones() -> None:
    engine = Engine(model(), RUNTIME)

    def run(seed: int | None) -> list[int]:
        return ids(engine, [1], GenerateConfig(max_new_tokens=30, temperature=2.0, seed=seed))

    assert run(5) == run(5)
    assert run(5) != run(6)
    assert run(None) != run(None)


def test_generation_ends_with_length_after_max_new_tokens() -> None:
    tokens = list(Engine(model(), RUNTIME).generate([1], GenerateConfig(max_new_tokens=5, temperature=0)))
    assert [token.finish_reason for token in tokens] == [None] * 4 + ["length"]


def test_generation_ends_with_the_stop_id_even_as_the_last_token_allowed() -> None:
    engine = Engine(model(), RUNTIME)
    free = ids(engine, [1], GREEDY)
    at = next(i for i in range(2, len(free)) if free[i] not in free[:i])
    expected = [*[Token(i) for i in free[:at]], Token(free[at], "stop")]
    assert list(engine.generate([1], GREEDY, frozenset({free[at]}))) == expected
    short = GenerateConfig(max_new_tokens=at + 1, temperature=0)
    assert list(engine.generate([1], short, frozenset({free[at]}))) == expected


def test_forbidden_ids_are_never_sampled_unless_they_stop() -> None:
    forbidden = torch.zeros(V, dtype=torch.bool)
    forbidden[10:] = True
    engine = Engine(model(), RUNTIME, forbidden)
    config = GenerateConfig(max_new_tokens=300, temperature=5.0, seed=0)
    assert set(ids(engine, [1], config)) == set(range(10))
    stopped = ids(engine, [1], config, frozenset({63}))
    assert stopped[-1] == 63
    assert set(stopped[:-1]) <= set(range(10))
    assert 63 not in ids(engine, [1], config)  # one request leaves no trace in the next


def test_two_generations_at_once_do_not_disturb_each_other() -> None:
    engine = Engine(model(), RUNTIME)
    one, two = engine.generate([1], GREEDY), engine.generate([9, 8, 7], GREEDY)
    pairs = list(zip(one, two, strict=True))
    assert [a.id for a, _ in pairs] == ids(engine, [1], GREEDY)
    assert [b.id for _, b in pairs] == ids(engine, [9, 8, 7], GREEDY)


def test_the_penalty_counts_prompt_and_answer_but_no_stop_id() -> None:
    net = model()
    scores = torch.linspace(2, 1, V)  # the lower the id, the better
    net.head.register_forward_hook(lambda module, args, out: scores.expand_as(out))
    config = GenerateConfig(max_new_tokens=4, temperature=0, repetition_penalty=4.0)
    assert ids(Engine(net, RUNTIME), [5, 0, 2], config) == [1, 3, 4, 6]
    assert ids(Engine(net, RUNTIME), [5, 0, 2], config, frozenset({2})) == [1, 2]


def test_the_caller_is_left_in_its_own_mode_and_the_model_can_still_learn() -> None:
    net = model(drop_rate=0.5, qk_norm=False)
    tokens = Engine(net, Runtime(torch.device("cpu"), "bf16", 1)).generate([1], GREEDY)
    next(tokens)
    assert not torch.is_inference_mode_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert not net.training
    net(torch.tensor([[1, 2]])).sum().backward()


def test_scores_that_are_no_numbers_are_an_error() -> None:
    net = model()
    torch.nn.init.constant_(net.head.weight, float("nan"))
    for temperature in (0.0, 1.0):
        with pytest.raises(KiaraError, match="diverged"):
            ids(Engine(net, RUNTIME), [1], GenerateConfig(temperature=temperature))


@pytest.mark.parametrize("prompt", [[], [V], [-1]])
def test_a_prompt_without_valid_ids_is_a_bug_of_the_caller(prompt: list[int]) -> None:
    with pytest.raises(AssertionError):
        ids(Engine(model(), RUNTIME), prompt, GREEDY)
