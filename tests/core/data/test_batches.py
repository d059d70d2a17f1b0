"""The order of batches is a pure function, and a batch is the same on whichever device and in pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.data.batches import IGNORE, Batch, permute


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_permutation_puts_each_number_at_one_place(size: int, key: int) -> None:
    places = permute(np.arange(size), size, np.uint64(key))
    assert sorted(places.tolist()) == list(range(size))


@pytest.mark.parametrize("size", range(1, 70))
def test_a_permutation_of_any_small_size_is_one_to_one(size: int) -> None:
    assert sorted(permute(np.arange(size), size, np.uint64(7)).tolist()) == list(range(size))


def test_a_permutation_shuffles_and_follows_its_key() -> None:
    places_in = np.arange(1000)
    first, second = (permute(places_in, 1000, np.uint64(key)) for key in (1, 2))
    for places in (first, second):
        assert (places == places_in).sum() < 10
        assert (np.abs(np.diff(places)) == 1).sum() < 10
    assert (first == second).sum() < 10
    assert permute(places_in[5:9], 1000, np.uint64(1)).tolist() == first[5:9].tolist()


@pytest.mark.parametrize("rows", [1, 2, 5, 9])
@pytest.mark.parametrize("packed", [False, True])
def test_pieces_of_a_batch_make_it_up_and_count_their_own_targets(rows: int, packed: bool) -> None:
    targets = torch.where(torch.rand(5, 8) < 0.5, torch.randint(9, (5, 8)), IGNORE)
    whole = Batch.of(torch.randint(9, (5, 8)), targets, torch.randint(3, (5, 8)) if packed else None)
    assert whole.target_count == int((targets >= 0).sum())
    parts = list(whole.split(rows))
    assert all(len(part.inputs) <= rows for part in parts)
    assert sum(part.target_count for part in parts) == whole.target_count
    for name in ("inputs", "targets", "segments") if packed else ("inputs", "targets"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
