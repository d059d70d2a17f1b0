"""The order of batches is a pure function, and every window comes once an epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.data import batches
from kiara_cli.core.data.batches import Batcher, eval_windows, permute
from kiara_cli.core.data.shards import Shards, Tokens
from kiara_cli.errors import KiaraError

SEEDS = st.integers(0, 2**63 - 1)


def counting(length: int) -> Tokens:
    """Ids that say where they stand."""
    return np.arange(length, dtype=np.uint16)


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_permutation_sends_each_rank_to_a_place_of_its_own(size: int, key: int) -> None:
    places = permute(np.arange(size), size, np.uint64(key))
    assert sorted(places.tolist()) == list(range(size))


@pytest.mark.parametrize("size", range(1, 70))
def test_a_permutation_of_any_small_size_is_one_to_one(size: int) -> None:
    assert sorted(permute(np.arange(size), size, np.uint64(7)).tolist()) == list(range(size))


def test_a_permutation_shuffles_and_follows_its_key() -> None:
    ranks = np.arange(1000)
    first, second = (permute(ranks, 1000, np.uint64(key)) for key in (1, 2))
    for places in (first, second):
        assert (places == ranks).sum() < 10
        assert (np.abs(np.diff(places)) == 1).sum() < 10
    assert (first == second).sum() < 10
    assert permute(ranks[5:9], 1000, np.uint64(1)).tolist() == first[5:9].tolist()


@given(
    length=st.integers(5, 400),
    context=st.integers(2, 40),
    stride=st.integers(1, 60),
    seed=SEEDS,
    epoch=st.integers(0, 5),
)
def test_every_window_comes_once_an_epoch(length: int, context: int, stride: int, seed: int, epoch: int) -> None:
    context = min(context, length - 1)
    batcher = Batcher(counting(length), context, 4, stride, seed)
    count = batcher.windows
    starts = np.sort(batcher.starts(np.arange(epoch * count, (epoch + 1) * count)))
    assert np.all(np.diff(starts) == stride)
    assert len(starts) == count >= 1
    assert 0 <= starts[0] < stride
    assert starts[-1] + context + 1 <= length


@given(length=st.integers(3, 2000), context=st.integers(2, 50), stride=st.integers(1, 50))
def test_the_number_of_windows_leaves_less_than_two_strides_unread(length: int, context: int, stride: int) -> None:
    context = min(context, length - 1)
    batcher = Batcher(counting(length), context, 1, stride, 0)
    unread = length - (batcher.windows - 1) * stride - context - 1
    assert 0 <= unread < 2 * stride


def test_targets_are_inputs_shifted_by_one() -> None:
    inputs, targets = Batcher(counting(500), 16, 8, 16, 3).batch(2)
    assert inputs.shape == targets.shape == (8, 16)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(16))


@given(seed=SEEDS, step=st.integers(0, 10_000))
def test_a_batch_is_a_pure_function_of_seed_and_step(seed: int, step: int) -> None:
    fresh = Batcher(counting(500), 16, 8, 16, seed).batch(step)
    used = Batcher(counting(500), 16, 8, 16, seed)
    used.batch(step + 1)
    assert all(torch.equal(a, b) for a, b in zip(fresh, used.batch(step), strict=True))


def test_another_seed_and_another_epoch_are_another_order() -> None:
    first, second = (Batcher(counting(2000), 16, 100, 16, seed) for seed in (1, 2))
    assert not torch.equal(first.batch(0)[0], second.batch(0)[0])
    starts = [first.starts(np.arange(epoch * first.windows, (epoch + 1) * first.windows)) for epoch in range(3)]
    assert len({tuple(row // 16) for row in starts}) == 3
    assert len({int(row.min()) for row in starts}) > 1, "later epochs see other cuts of the text"


def test_a_batch_may_reach_over_the_end_of_an_epoch() -> None:
    batcher = Batcher(counting(100), 16, 32, 16, 0)
    assert batcher.windows < 32
    assert batcher.batch(0)[0].shape == (32, 16)
    assert batcher.steps_per_epoch == batcher.windows / 32


def test_windows_with_the_stride_of_the_context_tile_the_text() -> None:
    batcher = Batcher(counting(1000), 10, 1, 10, 5)
    starts = np.sort(batcher.starts(np.arange(batcher.windows)))
    targets = np.concatenate([np.arange(start + 1, start + 11) for start in starts])
    assert np.array_equal(targets, np.arange(targets[0], targets[-1] + 1))


def test_with_a_stride_of_one_each_position_begins_a_window() -> None:
    batcher = Batcher(counting(50), 10, 1, 1, 5)
    assert batcher.windows == 40
    assert sorted(batcher.starts(np.arange(40)).tolist()) == list(range(40))


def test_the_shortest_text_that_works_fills_one_window() -> None:
    inputs, targets = Batcher(counting(17), 16, 2, 16, 0).batch(5)
    assert inputs.tolist() == [list(range(16))] * 2
    assert targets[0].tolist() == list(range(1, 17))


def test_a_text_too_short_is_answered_in_numbers() -> None:
    with pytest.raises(KiaraError) as caught:
        Batcher(counting(100), 256, 1, 256, 0)
    assert "has 100 tokens" in caught.value.cause
    assert "model.context_length=256 needs 257" in caught.value.cause
    assert caught.value.remedy.endswith("model.context_length=50")


@given(length=st.integers(0, 300), context=st.integers(2, 40), batch_size=st.integers(1, 5))
def test_evaluation_predicts_every_token_but_the_first_exactly_once(
    length: int, context: int, batch_size: int
) -> None:
    seen: list[int] = []
    for inputs, targets in eval_windows(counting(length), context, batch_size):
        assert torch.equal(targets, inputs + 1)
        assert inputs.shape[0] <= batch_size
        assert inputs.shape[1] <= context
        seen += targets.flatten().tolist()
    assert seen == list(range(1, length))


@given(
    length=st.integers(100, 3000),
    stride=st.integers(1, 40),
    block=st.integers(1, 400),
    seed=SEEDS,
    epoch=st.integers(0, 3),
)
def test_shuffled_blocks_visit_every_window_once_an_epoch(
    length: int, stride: int, block: int, seed: int, epoch: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "BLOCK", block)
        batcher = Batcher(counting(length), 16, 4, stride, seed, "blocks")
        count = batcher.windows
        starts = batcher.starts(np.arange(epoch * count, (epoch + 1) * count))
        assert np.all(np.diff(np.sort(starts)) == stride)
        size = max(1, block // stride)
        for first in range(0, count - size + 1, size):
            near = starts[first : first + size]
            assert near.max() - near.min() == (size - 1) * stride, "a block lies together"


def test_blocks_are_shuffled_within_and_among_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BLOCK", 16 * 20)
    batcher = Batcher(counting(16 * 20 * 30 + 20), 16, 4, 16, 3, "blocks")
    starts = batcher.starts(np.arange(600)).reshape(30, 20)
    assert not np.array_equal(np.argsort(starts[:, 0]), np.arange(30))
    assert (np.diff(starts[0]) == 16).sum() < 10
    assert starts.tolist() != batcher.starts(np.arange(600, 1200)).reshape(30, 20).tolist()


@given(step=st.integers(0, 40), world=st.integers(1, 5), sampling=st.sampled_from(["windows", "blocks"]))
def test_processes_together_take_what_one_would(step: int, world: int, sampling: str) -> None:
    tokens = counting(2000)
    alone = Batcher(tokens, 8, 4 * world, 8, 7, sampling)  # type: ignore[arg-type]
    several = [Batcher(tokens, 8, 4, 8, 7, sampling, rank, world) for rank in range(world)]  # type: ignore[arg-type]
    parts = [batcher.batch(step)[0] for batcher in several]
    assert torch.equal(torch.cat(parts), alone.batch(step)[0])
    assert several[0].steps_per_epoch == alone.steps_per_epoch


def test_several_token_files_are_one_text() -> None:
    tokens = counting(500)
    several = Shards([tokens[:100], tokens[100:101], tokens[101:]])
    for step in range(20):
        for one, many in zip(
            Batcher(tokens, 16, 4, 16, 3).batch(step), Batcher(several, 16, 4, 16, 3).batch(step), strict=True
        ):
            assert torch.equal(one, many)
    for one, many in zip(eval_windows(tokens, 16, 4), eval_windows(several, 16, 4), strict=True):
        assert torch.equal(one[0], many[0])
