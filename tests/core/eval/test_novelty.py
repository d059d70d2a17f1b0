"""Repetition and novelty against counts made with sets of tuples."""

from __future__ import annotations

import numpy as np
import pytest

from kiara_cli.core.data.shards import Shards
from kiara_cli.core.eval import novelty as module
from kiara_cli.core.eval.novelty import LENGTHS, Span, hashes, novelty, repetition


def grams(ids: np.ndarray, n: int) -> list[tuple[int, ...]]:
    return [tuple(ids[start : start + n].tolist()) for start in range(len(ids) - n + 1)]


def test_equal_stretches_have_equal_hashes_and_others_not() -> None:
    ids = np.random.default_rng(0).integers(0, 3, 300).astype(np.uint16)
    for n in (1, 2, 3, 5, 8, 13, 300):
        names = dict(zip(hashes(ids, n).tolist(), grams(ids, n), strict=True))
        assert all(names[key] == gram for key, gram in zip(hashes(ids, n).tolist(), grams(ids, n), strict=True))
        assert len(names) == len(set(grams(ids, n)))
    assert len(hashes(ids[:3], 4)) == 0


@pytest.mark.parametrize("piece", [7, 100, 1 << 20])
def test_what_stands_in_the_training_data_is_found_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(module, "PIECE", piece)
    draw = np.random.default_rng(1)
    training = draw.integers(0, 6, 900).astype(np.uint16)
    texts = [draw.integers(0, 6, 60).astype(np.int64), np.concatenate([[9], training[395:440], [9]]).astype(np.int64)]
    shards = Shards([training[:400], training[400:]])  # the copied stretch crosses from one file into the next
    found = novelty(texts, shards)  # type: ignore[arg-type]
    for n in LENGTHS:
        there, own = set(grams(training, n)), [gram for text in texts for gram in grams(text, n)]
        assert found.seen[n] == pytest.approx(sum(gram in there for gram in own) / len(own))
    assert found.longest == Span(45, 1, 1)
    assert found.scanned == 900


def test_a_text_that_is_new_is_called_new_and_an_empty_one_nothing() -> None:
    training = np.zeros(50, dtype=np.uint16)
    found = novelty([np.ones(40, dtype=np.int64), np.empty(0, dtype=np.int64)], training)
    assert set(found.seen.values()) == {0.0}
    assert found.longest.length == 0
    assert novelty([np.empty(0, dtype=np.int64)], training).seen == {}


def test_repetition_is_counted_in_each_text_by_itself() -> None:
    texts = [np.array([1, 2, 3, 1, 2, 3, 1, 2]), np.array([1, 2])]
    found = repetition(texts)
    assert found.distinct[1] == pytest.approx(3 / 10)
    assert found.repeated[2] == pytest.approx(4 / 8)
    assert found.longest == 5
    assert repetition([np.arange(20)]).longest == 0
