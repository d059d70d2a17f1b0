"""The same documents are held out each time, at least one and never all."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.data.documents import Document, conversation
from kiara_cli.core.data.splitting import Split, decide
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
    cut = max(min(1, len(whole) - 1), min(len(whole) - 1, int(len(whole) * (1 - fraction))))
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
    with pytest.raises(KiaraError, match=r"^them: all documents hold the same text.*data.val_source"):
        split([Document("a", "x"), Document("b", "x")], 0.5)


def share(documents: list[Document], fraction: float) -> float:
    train, val = split(documents, fraction)
    assert "".join(sorted("".join(d.text for d in (*train, *val)))) == "".join(
        sorted("".join(d.text for d in documents))
    )
    return sum(len(d.text) for d in val) / sum(len(d.text) for d in documents)


@pytest.mark.parametrize(
    "sizes",
    [(655_000, 8), (8, 655_000), (1000, 1000), (1000, 1000, 1000), (50_000, *[9] * 300), (9000, 500, 500, 20, 1)],
    ids=str,
)
@pytest.mark.parametrize("first", range(4))
def test_a_split_is_by_bytes_as_well_as_by_documents(sizes: tuple[int, ...], first: int) -> None:
    documents = [Document(str(n), f"{first}{n}".ljust(size, ".")[:size]) for n, size in enumerate(sizes)]
    assert 0.05 <= share(documents, 0.1) <= 0.2
    assert decide(documents, 0.1, "them") == decide(documents[::-1], 0.1, "them")


def test_a_large_document_among_many_is_seen_where_one_may_be_large() -> None:
    large = next(d for n in range(99) if (d := Document("x", f"{n}" * 100_000)).draw < 0.1)
    documents = [*(Document(str(n), f"text {n}") for n in range(1000)), large]
    assert decide(documents, 0.1, "them") == Split(limit=0.1)
    assert decide(documents, 0.1, "them", uneven=True).document == large.content


def talk(*texts: str) -> Document:
    roles = ("user", "assistant")
    return conversation("x", [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)])


def test_one_conversation_alone_keeps_its_roles() -> None:
    whole = talk("Hi", "Hello there", "A question?", "An answer", "Another?", "The last answer")
    train, val = split([whole], 0.3)
    assert train[0].messages + val[0].messages == whole.messages
    assert [turn["role"] for turn in val[0].messages] == ["user", "assistant"]
    assert f"{train[0].text}{val[0].text}" == whole.text
    train, val = split([talk("Hi", "0123456789")], 0.3)
    assert [dict(turn) for turn in train[0].messages] == [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "0123456"},
    ]  # fmt: skip
    assert [dict(turn) for turn in val[0].messages] == [{"role": "assistant", "content": "789"}]
    with pytest.raises(KiaraError, match=r"them is one conversation too short"):
        split([talk("Hi", "x")], 0.3)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_few_conversations_stay_whole(count: int) -> None:
    talks = [talk(f"Question {n}?", f"Answer {n}.") for n in range(count)]
    train, val = split(talks, 0.1)
    assert len(train) + len(val) == count
    assert val


def test_ids_are_cut_as_characters_are() -> None:
    ids = np.arange(100, dtype=np.uint16)
    train, val = split([Document("x", "", whole="ab" * 32, ids=ids)], 0.2)
    assert train[0].ids is not None
    assert val[0].ids is not None
    assert [*train[0].ids, *val[0].ids] == ids.tolist()
    assert len(val[0].ids) == 20
