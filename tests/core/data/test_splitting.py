"""The same documents are held out each time, at least one and never all."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.data.documents import Document
from kiara_cli.core.data.splitting import decide
from kiara_cli.errors import KiaraError


def split(documents: list[Document], fraction: float) -> tuple[list[Document], list[Document]]:
    sides = list(decide(documents, fraction, "them").sides(documents))
    return [document for document, held in sides if not held], [document for document, held in sides if held]


def test_a_single_document_is_cut_by_position() -> None:
    train, val = split([Document("a", "0123456789" * 10)], 0.2)
    assert (train[0].text, val[0].text) == ("0123456789" * 8, "0123456789" * 2)
    assert not val[0].continues


@given(st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=9), st.floats(0.01, 0.9))
def test_a_long_document_is_cut_where_it_would_be_in_one_piece(texts: list[str], fraction: float) -> None:
    parts = [Document("a", text, continues=index > 0, whole="ab" * 32) for index, text in enumerate(texts)]
    train, val = split(parts, fraction)
    whole = "".join(texts)
    cut = min(len(whole) - 1, int(len(whole) * (1 - fraction)))
    assert "".join(document.text for document in train) == whole[:cut]
    assert "".join(document.text for document in val) == whole[cut:]
    assert [document.continues for document in val] == [False, *[True] * (len(val) - 1)]


def test_several_documents_are_held_out_whole_and_always_the_same_ones() -> None:
    documents = [Document(str(index), f"text {index}") for index in range(400)]
    train, val = split(documents, 0.1)
    assert 20 < len(val) < 60
    assert sorted((*train, *val), key=lambda document: int(document.origin)) == documents
    shuffled = random.Random(0).sample(documents, 400)
    held = {document.origin for document in val}
    assert {document.origin for document in split(shuffled, 0.1)[1]} == held
    assert {document.origin for document in split(documents[:200], 0.1)[1]} <= held, "it keeps its place"


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("fraction", [0.0001, 0.1, 0.9])
def test_each_split_gets_at_least_one_document(count: int, fraction: float) -> None:
    for first in range(20):
        train, val = split([Document("x", f"text {first} {index}") for index in range(count)], fraction)
        assert train
        assert val


def test_no_more_is_read_than_the_decision_needs() -> None:
    read = 0

    def documents() -> object:
        nonlocal read
        for index in range(100_000):
            read += 1
            yield Document(str(index), f"text {index}")

    assert decide(documents(), 0.1, "them").limit == 0.1  # type: ignore[arg-type]
    assert read < 1000


def test_documents_that_are_all_the_same_cannot_be_split() -> None:
    with pytest.raises(KiaraError, match=r"the same text.*data.val_source"):
        split([Document("a", "x"), Document("b", "x")], 0.5)


def test_nothing_at_all_is_answered_with_its_name() -> None:
    with pytest.raises(KiaraError, match="them is empty"):
        decide([], 0.1, "them")
