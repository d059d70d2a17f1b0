from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.generate.engine import Engine, GenerationRequest, Options, Token, window_start
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.errors import KiaraError

V, CONTEXT = 64, 16
UNCACHED, PLAIN = Options(cache=False), Options(fast=False)
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
        out.head.weight.normal_(std=0.02)  # a head like the embeddings would say one word again and again
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
    assert fast == ids(Engine(net, RUNTIME, options=UNCACHED), [1, 2, 3], VARIED)
    assert len(set(fast)) > 8  # a model that repeats itself would prove nothing


@pytest.mark.parametrize("length", [1, 2, CONTEXT - 1, CONTEXT, CONTEXT + 1, 3 * CONTEXT + 5])
@pytest.mark.parametrize("context", [CONTEXT, 5, 2])
def test_the_cache_changes_no_sampled_token_for_any_length_of_prompt(length: int, context: int) -> None:
    net = model(context_length=context)
    prompt = [(7 * i) % V for i in range(length)]
    config = GenerateConfig(max_new_tokens=40, temperature=1.0, seed=3, repetition_penalty=1.2)
    fast = ids(Engine(net, RUNTIME), prompt, config)
    assert fast == ids(Engine(net, RUNTIME, options=UNCACHED), prompt, config)


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
    ids(Engine(net, RUNTIME, options=PLAIN), [1, 2, 3], GenerateConfig(max_new_tokens=40, temperature=0))
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


POISON = V - 1  # an id whose embedding is not a number


@pytest.mark.parametrize("options", [Options(), UNCACHED, PLAIN, Options(native="auto"), Options(cache_dtype="int8")])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_end_their_own_sequence_and_no_other(options: Options, number: float) -> None:
    net = model(context_length=32)
    config = GenerateConfig(max_new_tokens=20, temperature=1.0, seed=1)
    good = [GenerationRequest([n, 2, 3, *range(n)][: 2 + n], config) for n in (1, 12, 2, 3)]
    forbidden = torch.arange(V) == POISON
    expected = run_all(Engine(net, RUNTIME, forbidden, options), good)
    with torch.no_grad():
        net.tokens.weight[POISON] = number
    engine = Engine(net, RUNTIME, forbidden, replace(options, streams=3, prefix_bytes=10**6))
    bad = [engine.submit(GenerationRequest([*range(9), POISON, 5][:length], config)) for length in (10, 11)]
    late = engine.submit(GenerationRequest([4, 5], config, frozenset({POISON}), {POISON: 1000.0}))  # says it at last
    requests = [engine.submit(request) for request in good]
    while engine.busy:
        engine.step()
    assert [[token.id for token in request.events] for request in requests] == expected  # in slots the bad ones had
    for request in bad:
        (event,) = request.events
        assert (event.id, event.finish_reason) == (-1, "error")
        assert "not finite" in str(event.error)
        assert request.failed
    assert [token.finish_reason for token in late.events] == ["stop"]
    with pytest.raises(KiaraError, match="diverged"):
        list(engine.generate([1, POISON], config))
    assert ids(engine, list(good[0].prompt), config) == expected[0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_stop_being_numbers_in_the_middle_end_the_sequence_there(temperature: float) -> None:
    net = model()
    engine = Engine(net, RUNTIME)
    request = engine.submit(GenerationRequest([1, 2], GenerateConfig(max_new_tokens=30, temperature=temperature)))
    other = engine.submit(GenerationRequest([3, 4], GenerateConfig(max_new_tokens=30, temperature=temperature)))
    for _ in range(3):
        engine.step()
    with torch.inference_mode():
        engine.slots.cache.layers[0][1][0, :, 1] = float("nan")  # a value that the first one has read
    while engine.busy:
        engine.step()
    assert [token.finish_reason for token in request.events] == [None] * 3 + ["error"]
    assert [token.finish_reason for token in other.events] == [None] * 29 + ["length"]


def test_a_hook_that_forbids_ids_by_their_scores_is_no_error() -> None:
    net = model()
    net.logits.register_forward_hook(lambda module, args, out: out.index_fill(-1, torch.arange(5, V), float("-inf")))
    assert set(ids(Engine(net, RUNTIME), [1], GenerateConfig(max_new_tokens=60, temperature=3.0, seed=0))) == {
        *range(5)
    }


@pytest.mark.parametrize("prompt", [[1.5], ["a"], [None]])
def test_ids_that_are_no_whole_numbers_are_a_mistake(prompt: list[Any]) -> None:
    with pytest.raises(KiaraError, match="the model has no token"):
        ids(Engine(model(), RUNTIME), prompt, GREEDY)


@pytest.mark.parametrize("prompt", [[], [V], [-1]])
def test_a_prompt_without_valid_ids_is_a_mistake(prompt: list[int]) -> None:
    with pytest.raises(KiaraError, match="from 0 to 63"):
        ids(Engine(model(), RUNTIME), prompt, GREEDY)


def run_all(engine: Engine, generations: list[GenerationRequest], stagger: int = 0) -> list[list[int]]:
    """Return what came of each request; one more is made every `stagger` steps, so that they join and leave."""
    requests = []
    for request in generations:
        requests.append(engine.submit(request))
        for _ in range(stagger):
            engine.step()
    while engine.busy:
        engine.step()
    return [[token.id for token in request.events] for request in requests]


@pytest.mark.parametrize(("positions", "norm", "feedforward", "kv", "qk_norm"), OPTIONS)
def test_a_ragged_batch_writes_what_each_text_gets_alone_from_any_model(
    positions: str, norm: str, feedforward: str, kv: int, qk_norm: bool
) -> None:
    options = {"positions": positions, "norm": norm, "feedforward": feedforward, "qk_norm": qk_norm, "n_kv_heads": kv}
    net = model(**options, bias=kv == 2, head_dim=6 if kv == 1 else None)
    config = replace(VARIED, max_new_tokens=12)
    asked = [GenerationRequest([5 * n % V for n in range(1, length)], config) for length in (4, 18, 2, 9)]
    alone = [ids(Engine(net, RUNTIME, options=PLAIN), list(w.prompt), config) for w in asked]
    engine = Engine(net, RUNTIME, options=Options(streams=3, prefix_bytes=10**6))
    assert engine.backend.fast
    assert run_all(engine, asked, stagger=2) == alone
    guessing = [replace(asked, config=replace(config, speculate=3)) for asked in asked]
    assert run_all(engine, guessing) == alone  # now with all of it known, and guessed ahead


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30), st.integers(0, 9)), min_size=1, max_size=6))
def test_company_joining_and_leaving_changes_no_sampled_token(shapes: list[tuple[int, int, int]]) -> None:
    net = model()
    asked = [
        GenerationRequest(
            [(seed + 3 * n) % V for n in range(length)],
            GenerateConfig(max_new_tokens=new, temperature=1.0, seed=seed),
        )
        for length, new, seed in shapes
    ]
    alone = [ids(Engine(net, RUNTIME, options=PLAIN), list(w.prompt), w.config) for w in asked]
    engine = Engine(net, RUNTIME, options=Options(streams=3, prefix_bytes=100_000))
    assert run_all(engine, asked, stagger=1) == alone
    assert run_all(engine, asked) == alone  # now with all of it known


def test_different_settings_in_one_batch_keep_to_themselves() -> None:
    net = model()
    various = [
        GREEDY,
        GenerateConfig(seed=1, top_k=5),
        GenerateConfig(seed=2, temperature=2.0, top_p=0.9),
        GenerateConfig(seed=3, frequency_penalty=1.0, presence_penalty=1.0, no_repeat_ngram=2),
    ]
    asked = [GenerationRequest([1, 2], replace(config, max_new_tokens=20)) for config in various]
    alone = [ids(Engine(net, RUNTIME), [1, 2], w.config) for w in asked]
    assert run_all(Engine(net, RUNTIME), asked) == alone
    grams = list(zip(alone[3], alone[3][1:], strict=False))
    assert len(grams) == len(set(grams))


def test_what_was_read_before_is_not_read_again() -> None:
    net, read = model(context_length=64), []
    engine = Engine(net, RUNTIME, options=Options(prefix_bytes=10**6))
    states = net.states
    net.states = lambda ids, cache: read.append(ids.shape[1]) or states(ids, cache)  # type: ignore
    first = ids(engine, [*range(20)], replace(GREEDY, max_new_tokens=5))
    assert read == [20]
    ids(engine, [*range(20), *first, 1, 2], replace(GREEDY, max_new_tokens=5))  # a second turn
    assert read == [20, 3]  # the last of the first answer was never read
    many = [GenerationRequest([7, 7, *range(30)], GenerateConfig(max_new_tokens=3, seed=seed)) for seed in range(4)]
    run_all(engine, many)
    assert read[2:] == [32, 1, 1, 1]  # four samples, one prompt


def test_prefixes_stay_within_their_bytes_and_the_oldest_go_first() -> None:
    net = model(context_length=64)
    engine = Engine(net, RUNTIME, options=Options(prefix_bytes=40_000))  # 512 bytes a position
    short = replace(GREEDY, max_new_tokens=1)
    for start in range(6):
        ids(engine, [(start + n) % V for n in range(30)], short)
        assert engine.prefixes.bytes <= 40_000
    assert [known[0] for known in engine.prefixes.stored] == [4, 5]


def test_a_cancelled_request_ends_at_the_next_step_and_frees_its_row() -> None:
    engine = Engine(model(), RUNTIME, options=Options(streams=1))
    one, two = engine.submit(GenerationRequest([1], GREEDY)), engine.submit(GenerationRequest([2], GREEDY))
    engine.step()
    assert (len(one.events), len(two.events)) == (1, 0)
    one.cancel()
    engine.step()
    assert (len(one.events), len(two.events)) == (1, 1)
    two.cancel()
    engine.step()
    assert not engine.busy


def test_leaving_the_iterator_cancels() -> None:
    engine = Engine(model(), RUNTIME)
    tokens = engine.generate([1], GREEDY)
    next(tokens)
    tokens.close()  # type: ignore[attr-defined]
    engine.step()
    assert not engine.busy


@pytest.mark.parametrize("guesses", [1, 3, 8])
def test_guessing_changes_no_token_and_saves_passes(guesses: int) -> None:
    net = model(context_length=48)
    prompt = [1, 2, 3, 4, 5, 6] * 3
    config = GenerateConfig(max_new_tokens=60, temperature=0.4, seed=1, top_k=3)
    plain = ids(Engine(net, RUNTIME), prompt, config)
    engine, passes = Engine(net, RUNTIME), []
    step = engine.step
    engine.step = lambda: passes.append(1) or step()  # type: ignore
    assert ids(engine, prompt, replace(config, speculate=guesses)) == plain
    assert len(passes) <= len(plain)


def test_guesses_that_hold_are_taken_at_once() -> None:
    net = model(context_length=64)
    net.head.weight.data.zero_()  # every score is equal: the best id is 0, again and again
    engine = Engine(net, RUNTIME)
    request = engine.submit(GenerationRequest([0] * 8, replace(GREEDY, max_new_tokens=20, speculate=4)))
    steps = 0
    while engine.busy:
        engine.step()
        steps += 1
    assert [token.id for token in request.events] == [0] * 20
    assert steps < 10


def test_log_probabilities_are_the_models_own() -> None:
    net = model().eval()
    engine = Engine(net, RUNTIME)
    request = engine.submit(
        GenerationRequest([1, 2], GenerateConfig(max_new_tokens=1, seed=1, temperature=3.0), logprobs=3)
    )
    engine.step()
    (token,) = request.events
    with torch.no_grad():
        expected = net(torch.tensor([[1, 2]]))[0, -1].log_softmax(-1)
    assert token.logprob == pytest.approx(float(expected[token.id]), abs=1e-5)
    best = expected.topk(3)
    assert [i for i, _ in token.top] == best.indices.tolist()
    assert [p for _, p in token.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_a_bias_raises_or_forbids_an_id() -> None:
    engine = Engine(model(), RUNTIME)
    loud, never = (
        GenerationRequest([1], GREEDY, logit_bias={7: 1000.0}),
        GenerationRequest([1], GREEDY, logit_bias={7: -1000.0}),
    )
    assert set(run_all(engine, [loud])[0]) == {7}
    assert 7 not in run_all(engine, [never])[0]


TOLERANCE = {"bf16": 0.08, "int8": 0.04, "fp32": 1e-4}  # of log-probabilities whose standard deviation is 0.6


@pytest.mark.parametrize("kept", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("positions", ["rotary", "learned", "sinusoidal"])
def test_faster_paths_agree_wherever_the_best_two_scores_differ_by_more_than_the_tolerance(
    kept: str, dtype: str, positions: str
) -> None:
    net = model(positions=positions, n_kv_heads=2, context_length=64).eval()
    runtime = Runtime(torch.device("cpu"), dtype, 1)  # type: ignore[arg-type]
    engine = Engine(net, runtime, options=Options(cache_dtype=kept))  # type: ignore[arg-type]
    requests = [
        engine.submit(GenerationRequest(prompt, replace(GREEDY, max_new_tokens=40), logprobs=V))
        for prompt in ([1, 2], [9])
    ]
    while engine.busy:
        engine.step()
    tolerance = max(TOLERANCE[kept], TOLERANCE[dtype])
    decided = 0
    for one in requests:
        with torch.no_grad():
            scores = net(torch.tensor([one.ids[:-1]]))[0, len(one.asked.prompt) - 1 :].log_softmax(dim=-1)
        for row, token in zip(scores, one.events, strict=True):
            assert token.logprob == pytest.approx(float(row[token.id]), abs=tolerance)
            assert all(abs(float(row[i]) - logprob) <= tolerance for i, logprob in token.top)
            best = row.topk(2)
            if float(best.values[0] - best.values[1]) > 2 * tolerance:
                decided += 1
                assert token.id == int(best.indices[0])
    assert decided >= 5  # a test in which nothing is clear would prove nothing


def test_a_request_that_guesses_to_the_end_of_the_context_leaves_others_be() -> None:
    net = model()
    configs = [replace(GREEDY, speculate=4, repetition_penalty=1.0), VARIED]
    alone = [ids(Engine(net, RUNTIME), [1, 2, 3, 1, 2], config) for config in configs]
    engine = Engine(net, RUNTIME)
    together = [engine.submit(GenerationRequest([1, 2, 3, 1, 2], config)) for config in configs]
    while engine.busy:
        engine.step()
    assert [request.ids[5:] for request in together] == alone
