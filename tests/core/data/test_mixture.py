"""Rows of several data folders in one order: evenly spread, each once an epoch of its own, from any position on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kiara_cli.config.schema import DataConfig
from kiara_cli.core.data.batches import share
from kiara_cli.core.data.mixture import MixedBatcher, apart, weighted
from kiara_cli.core.data.windows import WindowBatcher
from kiara_cli.errors import KiaraError


def windows(first: int, rows: int) -> WindowBatcher:
    """Rows of two ids, of which the first says which part and which row it is."""
    tokens = np.arange(first, first + 2 * rows + 1, dtype=np.uint16)
    return WindowBatcher(tokens, context_length=2, batch_size=4, stride=2, seed=0)


def test_each_part_gives_its_share_of_any_stretch_and_its_own_rows_in_its_own_order() -> None:
    own, second, third = windows(0, 6), windows(1000, 50), windows(2000, 7)
    mixed = MixedBatcher([(0.5, own), (0.3, second), (0.2, third)])
    assert mixed.rows == 2 * own.rows
    rows = torch.cat([mixed.at(np.array([place])).inputs[:, 0] for place in range(100)])
    for part, (wanted, batcher) in enumerate(mixed.parts):
        mine = rows[rows // 1000 == part]
        assert len(mine) == pytest.approx(100 * wanted, abs=1)
        assert torch.equal(mine, batcher.at(np.arange(len(mine))).inputs[:, 0]), "from its first row on, in its order"
        counts = np.cumsum((rows // 1000 == part).numpy())
        assert (np.abs(counts - wanted * np.arange(1, 101)) < 2).all(), "evenly spread"
    assert set(rows[rows < 1000][: own.rows].tolist()) == set(own.at(np.arange(own.rows)).inputs[:, 0].tolist())


def test_a_batch_is_the_same_for_one_process_and_for_two() -> None:
    mixed = MixedBatcher([(0.7, windows(0, 9)), (0.3, windows(1000, 20))])
    whole = sorted(mixed.at(np.arange(8)).inputs[:, 0].tolist())
    halves = [mixed.at(share(np.arange(8), rank, 2)) for rank in (0, 1)]
    assert sorted(torch.cat([half.inputs[:, 0] for half in halves]).tolist()) == whole
    assert mixed.targets_at(np.arange(8)) == sum(half.target_count for half in halves) == 16


def test_weights_are_read_off_the_end_of_a_source() -> None:
    assert weighted("tales@0.5") == ("tales", 0.5)
    assert weighted("s3://me@host/x.txt") == ("s3://me@host/x.txt", 1.0)
    Path("a@2").write_text("x")
    assert weighted("a@2") == ("a@2", 1.0), "a file of that name is meant"
    for word in ("a@0", "a@-1", "a@nan"):
        with pytest.raises(KiaraError, match="give one above 0"):
            weighted(word)
    assert apart(DataConfig(sources=("b", "c"))) == []
    assert apart(DataConfig(sources=("b", "c@2"))) == [("b", 1.0), ("c", 2.0)]
