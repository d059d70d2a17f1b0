"""Every window comes once an epoch, and evaluation predicts every token once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.data import windows
from kiara_cli.core.data.batches import positions, share
from kiara_cli.core.data.shards import Shards, Tokens
from kiara_cli.core.data.windows import WindowBatcher, eval_windows
from kiara_cli.errors import KiaraError

SEEDS = st.integers(0, 2**63 - 1)


def counting(length: int) -> Tokens:
    """Ids that say where they stand."""
    return np.arange(length, dtype=np.uint16)


@given(
    length=st.integers(5, 400),
    context=st.integers(2, 40),
    stride=st.integers(1, 60),
    seed=SEEDS,
    epoch=st.integers(0, 5),
)
def test_every_window_comes_once_an_epoch(length: int, context: int, stride: int, seed: int, epoch: int) -> None:
    context = min(context, length - 1)
    batcher = WindowBatcher(counting(length), context, 4, stride, seed)
    count = batcher.rows
    starts = np.sort(batcher.starts(np.arange(epoch * count, (epoch + 1) * count)))
    assert np.all(np.diff(starts) == stride)
    assert len(starts) == count >= 1
    assert 0 <= starts[0] < stride
    assert starts[-1] + context + 1 <= length


@given(length=st.integers(3, 2000), context=st.integers(2, 50), stride=st.integers(1, 50))
def test_the_number_of_windows_leaves_less_than_two_strides_unread(length: int, context: int, stride: int) -> None:
    context = min(context, length - 1)
    batcher = WindowBatcher(counting(length), context, 1, stride, 0)
    unread = length - (batcher.rows - 1) * stride - context - 1
    assert 0 <= unread < 2 * stride


def test_targets_are_inputs_shifted_by_one() -> None:
    batch = WindowBatcher(counting(500), 16, 8, 16, 3).batch(2)
    inputs, targets = batch.inputs, batch.targets
    assert batch.target_count == targets.numel()
    assert inputs.shape == targets.shape == (8, 16)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(16))


@given(seed=SEEDS, step=st.integers(0, 10_000))
def test_a_batch_is_a_pure_function_of_seed_and_step(seed: int, step: int) -> None:
    fresh = WindowBatcher(counting(500), 16, 8, 16, seed).batch(step)
    used = WindowBatcher(counting(500), 16, 8, 16, seed)
    used.batch(step + 1)
    assert torch.equal(fresh.inputs, used.batch(step).inputs)
    assert torch.equal(fresh.targets, used.batch(step).targets)


def test_another_seed_and_another_epoch_are_another_order() -> None:
    first, second = (WindowBatcher(counting(2000), 16, 100, 16, seed) for seed in (1, 2))
    assert not torch.equal(first.batch(0).inputs, second.batch(0).inputs)
    starts = [first.starts(np.arange(epoch * first.rows, (epoch + 1) * first.rows)) for epoch in range(3)]
    assert len({tuple(row // 16) for row in starts}) == 3
    assert len({int(row.min()) for row in starts}) > 1, "later epochs see other cuts of the text"


def test_a_batch_may_reach_over_the_end_of_an_epoch() -> None:
    batcher = WindowBatcher(counting(100), 16, 32, 16, 0)
    assert batcher.rows < 32
    assert batcher.batch(0).inputs.shape == (32, 16)


def test_windows_with_the_stride_of_the_context_tile_the_text() -> None:
    batcher = WindowBatcher(counting(1000), 10, 1, 10, 5)
    starts = np.sort(batcher.starts(np.arange(batcher.rows)))
    targets = np.concatenate([np.arange(start + 1, start + 11) for start in starts])
    assert np.array_equal(targets, np.arange(targets[0], targets[-1] + 1))


def test_with_a_stride_of_one_each_position_begins_a_window() -> None:
    batcher = WindowBatcher(counting(50), 10, 1, 1, 5)
    assert batcher.rows == 40
    assert sorted(batcher.starts(np.arange(40)).tolist()) == list(range(40))


def test_the_shortest_text_that_works_fills_one_window() -> None:
    batch = WindowBatcher(counting(17), 16, 2, 16, 0).batch(5)
    assert batch.inputs.tolist() == [list(range(16))] * 2
    assert batch.targets[0].tolist() == list(range(1, 17))


def test_a_text_too_short_is_answered_in_numbers() -> None:
    with pytest.raises(KiaraError) as caught:
        WindowBatcher(counting(100), 256, 1, 256, 0)
    assert "has 100 tokens" in caught.value.cause
    assert "model.context_length=256 needs 257" in caught.value.cause
    assert caught.value.remedy.endswith("model.context_length=50")


@given(length=st.integers(0, 300), context=st.integers(2, 40), batch_size=st.integers(1, 5))
def test_evaluation_predicts_every_token_but_the_first_exactly_once(
    length: int, context: int, batch_size: int
) -> None:
    seen: list[int] = []
    for batch in eval_windows(counting(length), context, batch_size):
        assert torch.equal(batch.targets, batch.inputs + 1)
        assert batch.inputs.shape[0] <= batch_size
        assert batch.inputs.shape[1] <= context
        assert batch.target_count == batch.targets.numel()
        seen += batch.targets.flatten().tolist()
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
        patch.setattr(windows, "BLOCK", block)
        batcher = WindowBatcher(counting(length), 16, 4, stride, seed, "blocks")
        count = batcher.rows
        starts = batcher.starts(np.arange(epoch * count, (epoch + 1) * count))
        assert np.all(np.diff(np.sort(starts)) == stride)
        size = max(1, block // stride)
        for first in range(0, count - size + 1, size):
            near = starts[first : first + size]
            assert near.max() - near.min() == (size - 1) * stride, "a block lies together"


def test_blocks_are_shuffled_within_and_among_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "BLOCK", 16 * 20)
    batcher = WindowBatcher(counting(16 * 20 * 30 + 20), 16, 4, 16, 3, "blocks")
    starts = batcher.starts(np.arange(600)).reshape(30, 20)
    assert not np.array_equal(np.argsort(starts[:, 0]), np.arange(30))
    assert (np.diff(starts[0]) == 16).sum() < 10
    assert starts.tolist() != batcher.starts(np.arange(600, 1200)).reshape(30, 20).tolist()


@given(step=st.integers(0, 40), world=st.integers(1, 5), sampling=st.sampled_from(["windows", "blocks"]))
def test_processes_together_take_what_one_would(step: int, world: int, sampling: str) -> None:
    tokens = counting(2000)
    batcher = WindowBatcher(tokens, 8, 7, 8, 7, sampling)  # type: ignore[arg-type]
    parts = [batcher.at(share(positions(step, 7), rank, world)).inputs for rank in range(world)]
    assert torch.equal(torch.cat(parts), batcher.batch(step).inputs)
    assert {len(part) for part in parts} <= {7 // world, -(-7 // world)}


def test_several_token_files_are_one_text() -> None:
    tokens = counting(500)
    several = Shards([tokens[:100], tokens[100:101], tokens[101:]])
    for step in range(20):
        one, many = (WindowBatcher(given, 16, 4, 16, 3).batch(step) for given in (tokens, several))
        assert torch.equal(one.inputs, many.inputs)
        assert torch.equal(one.targets, many.targets)
    for one, many in zip(eval_windows(tokens, 16, 4), eval_windows(several, 16, 4), strict=True):
        assert torch.equal(one.inputs, many.inputs)
