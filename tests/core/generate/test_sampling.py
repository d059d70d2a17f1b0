import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.generate import sampling

LOGITS = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -3.0]])
ROWS = st.lists(st.integers(-40, 40), min_size=1, max_size=12).map(lambda row: torch.tensor([[x / 8 for x in row]]))


def chances(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draws(config: GenerateConfig, n: int = 40_000, logits: torch.Tensor = LOGITS) -> torch.Tensor:
    """Return how often each id came, as shares."""
    ids = sampling.sample(logits.expand(n, -1), config, chances(n))
    return torch.bincount(ids, minlength=logits.shape[1]) / n


def kept(logits: torch.Tensor) -> list[set[int]]:
    return [{i for i, x in enumerate(row) if x > -math.inf} for row in logits.tolist()]


def assert_close(shares: torch.Tensor, expected: torch.Tensor, n: int = 40_000) -> None:
    """Every share within 4.5 standard errors; ids of probability 0 never."""
    error = (expected * (1 - expected) / n).sqrt()
    assert ((shares - expected).abs() <= 4.5 * error).all(), (shares, expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_ids_come_as_often_as_their_probability_says(temperature: float) -> None:
    expected = (LOGITS[0] / temperature).softmax(-1)
    assert_close(draws(GenerateConfig(temperature=temperature)), expected)


def test_all_filters_together_leave_the_distribution_of_the_rest() -> None:
    config = GenerateConfig(temperature=1.0, top_k=4, top_p=0.93, min_p=0.2)
    left = LOGITS[0].clone()
    left[3:] = -math.inf  # top-k leaves 0 1 2 3; 0 1 2 hold 0.92 of that, so top-p keeps 3; min-p drops it
    assert_close(draws(config), left.softmax(-1))


def test_a_forbidden_id_is_never_sampled_and_takes_no_place_among_the_top_k() -> None:
    left = torch.tensor([-math.inf, 1.0, 0.5, 0.0, -1.0, -math.inf])
    shares = draws(GenerateConfig(temperature=1.0, top_k=2), logits=left[None])
    left[3:] = -math.inf
    assert_close(shares, left.softmax(-1))


def test_zero_temperature_takes_the_best_id_of_each_row() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert sampling.sample(logits, GenerateConfig(temperature=0), chances(2)).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300])
def test_a_tiny_temperature_is_greedy_and_does_not_overflow(temperature: float) -> None:
    left = torch.cat([torch.tensor([[-math.inf]]), LOGITS[:, 1:]], dim=1)
    assert draws(GenerateConfig(temperature=temperature), n=100, logits=left)[1] == 1


def test_a_row_is_drawn_by_its_own_chance_whatever_the_company() -> None:
    logits, config = torch.randn(64, 100), GenerateConfig(temperature=1.0, top_p=0.9)
    together = sampling.sample(logits, config, chances(64, 1))
    assert not together.equal(sampling.sample(logits, config, chances(64, 2)))
    alone = [int(sampling.sample(logits[i : i + 1], config, chances(64, 1)[i : i + 1])) for i in range(64)]
    assert together.tolist() == alone
    assert len(set(alone)) > 30


@pytest.mark.parametrize("point", [0.0, 1 - 2**-53])
def test_the_ends_of_the_line_belong_to_ids_that_may_come(point: float) -> None:
    logits = torch.tensor([[-math.inf, 0.3, 0.1, -math.inf]])
    drawn = int(sampling.draw(logits, torch.tensor([point], dtype=torch.float64)))
    assert drawn == (1 if point == 0 else 2)


def test_sampling_leaves_its_input_alone() -> None:
    logits = LOGITS.clone()
    sampling.sample(logits, GenerateConfig(top_k=2, top_p=0.5, min_p=0.1), chances(1))
    assert logits.equal(LOGITS)


@given(st.lists(st.integers(0, 3), max_size=14), st.integers(1, 4))
def test_no_ngram_comes_twice_if_its_ends_are_avoided(ids: list[int], n: int) -> None:
    ends = sampling.ngram_ends(ids, n)
    for new in range(4):
        grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
        repeats = len(ids) >= n - 1 and tuple([*ids, new][-n:]) in grams
        assert (new in ends) == repeats


def test_the_count_penalties_are_those_of_openai() -> None:
    counts = torch.tensor([[0.0, 1.0, 3.0]])
    out = sampling.penalize_counts(torch.zeros(1, 3), counts, 0.5, 2.0)
    assert out.tolist() == [[0.0, -2.5, -3.5]]


@given(ROWS, st.integers(1, 20))
def test_top_k_keeps_what_fewer_than_k_ids_beat(logits: torch.Tensor, k: int) -> None:
    row = logits[0].tolist()
    plain = {i for i, x in enumerate(row) if sum(y > x for y in row) < k}
    assert kept(sampling.keep_top_k(logits, k)) == [plain]


@given(ROWS, st.floats(0, 1))
def test_top_p_keeps_the_fewest_best_ids_that_reach_p(logits: torch.Tensor, p: float) -> None:
    probs = logits[0].softmax(-1).tolist()
    (ids,) = kept(sampling.keep_top_p(logits, p))
    left = sorted((probs[i] for i in ids), reverse=True)
    dropped = [x for i, x in enumerate(probs) if i not in ids]
    assert left
    assert min(left) >= max(dropped, default=0)
    assert sum(left) >= p - 1e-5  # enough …
    assert len(left) == 1 or sum(left[:-1]) < p + 1e-5  # … and no more than needed


def test_top_p_zero_keeps_the_best_id() -> None:
    assert kept(sampling.keep_top_p(LOGITS.flip(-1), 0.0)) == [{5}]
    assert draws(GenerateConfig(top_p=0.0), n=100)[0] == 1


def test_top_p_works_row_by_row() -> None:
    logits = torch.tensor([[0.0, 9.0, 0.0], [1.0, 0.0, 1.0]])
    assert kept(sampling.keep_top_p(logits, 0.8)) == [{1}, {0, 2}]


@given(ROWS, st.floats(0, 1))
@settings(deadline=None)
def test_min_p_keeps_ids_near_the_best_one(logits: torch.Tensor, min_p: float) -> None:
    probs = logits.softmax(-1)
    plain = {i for i, x in enumerate(probs[0]) if x >= min_p * probs.max()}
    assert kept(sampling.keep_min_p(logits, min_p)) == [plain]
    assert int(logits.argmax()) in plain


def test_the_repetition_penalty_lowers_seen_ids_of_either_sign_and_no_other() -> None:
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0, -math.inf]])
    seen = torch.tensor([[True, True, False, False, True]])
    out = sampling.penalize_repetition(logits, seen, 4.0)
    assert out.tolist() == [[0.5, -8.0, 2.0, -2.0, -math.inf]]
