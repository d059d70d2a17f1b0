from __future__ import annotations

import numpy as np
import pytest
import torch

from kiara_cli.core.data.batches import IGNORE, Batch
from kiara_cli.core.data.windows import WindowBatcher
from kiara_cli.core.train.feed import PIECE, Feed, rows_at_once

CPU = torch.device("cpu")
TOKENS = np.arange(500, dtype=np.uint16)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_batches_drawn_ahead_are_the_same_in_any_order(accumulation: int) -> None:
    batcher = WindowBatcher(TOKENS, 16, 4, 16, 3)
    feed = Feed(batcher, accumulation, CPU)
    for position in (0, 3, 6, 9, 12, 40, 41, 3, 100):
        batches = feed.take(position)
        assert len(batches.parts) == accumulation
        assert batches.targets == accumulation * 4 * 16
        for index, made in enumerate(batches.parts):
            plain = batcher.batch(position + index)
            assert torch.equal(made.inputs, plain.inputs)
            assert torch.equal(made.targets, plain.targets)
    feed.close()


def test_what_goes_wrong_ahead_is_raised_where_it_is_asked_for() -> None:
    class Broken(WindowBatcher):
        def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
            if step == 2:
                raise OSError("the disk is gone")
            return super().batch(step)

    feed = Feed(Broken(TOKENS, 16, 4, 16, 3), 1, CPU)
    feed.take(0)
    feed.take(1)
    with pytest.raises(OSError, match="the disk is gone"):
        feed.take(2)
    feed.close()


def test_only_what_is_learned_is_counted_and_nothing_counts_as_one() -> None:
    class Masked(WindowBatcher):
        def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
            batch = super().batch(step)
            batch.targets[:, 1 - step :] = IGNORE  # one column, then none
            return Batch.of(batch.inputs, batch.targets)

        def targets(self, step: int, world: int = 1) -> int:
            return self.batch(step).target_count

    feed = Feed(Masked(TOKENS, 16, 4, 16, 3), 1, CPU)
    assert feed.take(0).targets == 4
    assert feed.take(1).targets == 1
    feed.close()


def test_each_process_has_its_own_rows_and_counts_the_targets_of_all() -> None:
    batcher = WindowBatcher(TOKENS, 16, 4, 16, 3)
    feeds = [Feed(batcher, 2, CPU, rank, 3) for rank in range(3)]
    each = [feed.take(0) for feed in feeds]
    alone = WindowBatcher(TOKENS, 16, 12, 16, 3)
    for step in range(2):
        together = torch.cat([batches.parts[step].inputs for batches in each])
        assert torch.equal(together, alone.batch(step).inputs)
    assert [batches.targets for batches in each] == [2 * 12 * 16] * 3
    for feed in feeds:
        feed.close()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_large_batch_comes_in_pieces_that_make_it_up(accumulation: int) -> None:
    tokens = np.arange(20_000, dtype=np.uint16)
    batcher = WindowBatcher(tokens, 512, 20, 512, 3)  # 2.5 times what goes through the model at once
    feed = Feed(batcher, accumulation, CPU)
    batches = feed.take(0)
    feed.close()
    assert [len(part.inputs) for part in batches.parts] == [10, 10] * accumulation
    assert batches.targets == accumulation * 20 * 512
    for name in ("inputs", "targets"):
        whole = torch.cat([getattr(batcher.batch(index), name) for index in range(accumulation)])
        assert torch.equal(torch.cat([getattr(part, name) for part in batches.parts]), whole)


def test_pieces_are_about_as_large_as_each_other_and_never_less_than_a_row() -> None:
    assert rows_at_once(12, 64, "cpu") == 12
    assert rows_at_once(64, 256, "cpu") == 16
    assert rows_at_once(11, 384, "cpu") == 11
    assert rows_at_once(3, 4 * PIECE, "cpu") == 1
    assert rows_at_once(64, 256, "cuda") == 64
