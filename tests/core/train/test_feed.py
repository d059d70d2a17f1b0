from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kiara_cli.core.data.batches import IGNORE, Batch
from kiara_cli.core.data.packing import PackedBatcher
from kiara_cli.core.data.windows import WindowBatcher
from kiara_cli.core.runtime.parallel import World
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.chat_format import encode_conversation
from kiara_cli.core.train.feed import PIECE, Feed, rows_at_once

CPU = torch.device("cpu")
TOKENS = np.arange(500, dtype=np.uint16)
TOKENIZER = CharTokenizer.ascii()
ASKED = [
    ({"role": "user", "content": "a" * (n % 40)}, {"role": "assistant", "content": "b" * 3 * n}) for n in range(60)
]
TALKS = np.concatenate([encode_conversation(list(talk), TOKENIZER)[0] for talk in ASKED] * 9).astype(np.uint16)


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
        def at(self, places: NDArray[np.int64]) -> Batch:
            if 8 in places:
                raise OSError("the disk is gone")
            return super().at(places)

    feed = Feed(Broken(TOKENS, 16, 4, 16, 3), 1, CPU)
    feed.take(0)
    feed.take(1)
    with pytest.raises(OSError, match="the disk is gone"):
        feed.take(2)
    feed.close()


def test_only_what_is_learned_is_counted_and_nothing_counts_as_one() -> None:
    class Masked(WindowBatcher):
        def at(self, places: NDArray[np.int64]) -> Batch:
            batch = super().at(places)
            batch.targets[:, 1 - places[0] // 4 :] = IGNORE  # one column, then none
            return Batch.of(batch.inputs, batch.targets)

        def targets_at(self, places: NDArray[np.int64]) -> int:
            return self.at(places).target_count

    feed = Feed(Masked(TOKENS, 16, 4, 16, 3), 1, CPU)
    assert feed.take(0).targets == 4
    assert feed.take(1).targets == 1
    feed.close()


@given(world=st.integers(1, 7), batch_size=st.integers(2, 9), accumulation=st.integers(1, 4), kind=st.booleans())
def test_processes_learn_from_the_rows_of_one_in_as_many_pieces_each(
    world: int, batch_size: int, accumulation: int, kind: bool
) -> None:
    places = np.arange(batch_size * accumulation * 5, batch_size * accumulation * 6)
    if len(places) < world:
        return
    packed = PackedBatcher(TALKS, TOKENIZER.specials, 512, batch_size, 7)
    batcher = packed if kind else WindowBatcher(np.arange(20_000, dtype=np.uint16), 512, batch_size, 512, 3)
    each = []
    for rank in range(world):
        feed = Feed(batcher, accumulation, CPU, World(rank, world, rank))
        each.append(feed.take(5 * accumulation))
        feed.close()
    whole = batcher.at(places)
    parts = [part for batches in each for part in batches.parts]
    learned = torch.cat([part.inputs[(part.targets != IGNORE).any(1)] for part in parts])
    assert torch.equal(learned, whole.inputs)
    assert {batches.targets for batches in each} == {whole.target_count} == {sum(part.target_count for part in parts)}
    shapes = [[len(part.inputs) for part in batches.parts] for batches in each]
    assert all(shape == shapes[0] for shape in shapes), "or collective operations would wait for each other"


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
