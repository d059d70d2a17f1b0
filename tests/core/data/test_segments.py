"""Where documents and conversations lie is found from the ids alone, in chunks of any size."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.data import segments
from kiara_cli.core.data.segments import Segments, count_conversations, find_segments, holds_conversations
from kiara_cli.core.tokenizer.chat_format import target_mask
from kiara_cli.core.tokenizer.protocol import SPECIALS

MARKS = {name: 10 + index for index, name in enumerate(SPECIALS)}
END_OF_TEXT, SYSTEM, USER, ASSISTANT, END = MARKS.values()

words = st.lists(st.integers(0, 9), max_size=12)
turns = st.tuples(st.sampled_from([SYSTEM, USER, ASSISTANT]), words).map(lambda turn: [turn[0], *turn[1], END])
conversations = st.lists(turns, min_size=1, max_size=4).map(lambda all: [END_OF_TEXT, *chain.from_iterable(all)])
documents = words.map(lambda text: [END_OF_TEXT, *text])
splits = st.lists(conversations | documents, min_size=1, max_size=12)


def one_by_one(split: list[list[int]], longest: int, loss_on: str) -> list[tuple[list[int], int, bool]]:
    """Do what `find_segments` does, plainly: return the ids of each segment, its targets, and if it is of a talk."""
    found: list[tuple[list[int], int, bool]] = []
    for ids, following in zip(split, [*split[1:], []], strict=True):
        if len(ids) > 1 and ids[1] in (SYSTEM, USER, ASSISTANT):
            ids = ids[:longest]
            said = int(target_mask(np.array(ids), MARKS).sum())
            found.append((ids, said if loss_on == "assistant" else len(ids) - 1, True))
            continue
        whole = [*ids, *following[:1]]
        pieces = [whole[first : first + longest] for first in range(0, len(whole) - 1, longest - 1)]
        found += [(piece, len(piece) - 1, False) for piece in pieces]
    return found


def shown(found: Segments, tokens: np.ndarray) -> list[tuple[list[int], int, bool]]:
    arrays = (found.starts.tolist(), found.lengths.tolist(), found.targets.tolist(), found.conversation.tolist())
    return [
        (tokens[start : start + length].tolist(), targets, talk)
        for start, length, targets, talk in zip(*arrays, strict=True)
    ]


@given(splits, st.integers(2, 30), st.integers(1, 40), st.sampled_from(["assistant", "all"]))
def test_segments_are_those_that_a_plain_reading_finds(
    split: list[list[int]], longest: int, chunk: int, loss_on: str
) -> None:
    tokens = np.array([*chain.from_iterable(split)], dtype=np.uint16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "CHUNK", chunk)
        found = find_segments(tokens, MARKS, longest, loss_on)
        number = count_conversations(tokens, MARKS)
        assert holds_conversations(tokens, MARKS) == (number > 0)
    expected = one_by_one(split, longest, loss_on)
    assert shown(found, tokens) == expected
    contents, talks = found.contents, [targets for _, targets, talk in expected if talk]
    assert (contents.conversations, contents.conversation_targets) == (len(talks), sum(talks)) == (number, sum(talks))
    assert contents.documents == len(split) - number
    assert contents.document_targets == sum(targets for _, targets, talk in expected if not talk)
    assert contents.silent == talks.count(0)


@given(st.lists(documents, min_size=1, max_size=8), st.integers(2, 10))
def test_documents_have_the_targets_that_sliding_windows_have(split: list[list[int]], longest: int) -> None:
    """Each id but the first of all, whatever the length of a row: ends of documents are learned too."""
    tokens = np.array([*chain.from_iterable(split)], dtype=np.uint16)
    found = find_segments(tokens, MARKS, longest)
    assert found.contents.document_targets == len(tokens) - 1
    places = [start + n for start, length in zip(found.starts, found.lengths, strict=True) for n in range(1, length)]
    assert places == list(range(1, len(tokens)))


def test_a_split_may_begin_with_the_rest_of_a_document() -> None:
    tokens = np.array([1, 2, 3, END_OF_TEXT, 4, END_OF_TEXT, USER, 5, END], dtype=np.uint16)
    for part, first in ((tokens, [1, 2, 3, END_OF_TEXT]), (tokens[:3], [1, 2, 3])):
        found = find_segments(part, MARKS, 20)
        assert shown(found, part)[0] == (first, len(first) - 1, False)


def test_the_rest_of_a_conversation_is_left_out() -> None:
    tokens = np.array([1, 2, END, ASSISTANT, 3, END, END_OF_TEXT, 4, 5], dtype=np.uint16)
    assert shown(find_segments(tokens, MARKS, 20), tokens) == [([END_OF_TEXT, 4, 5], 2, False)]


def test_an_empty_split_holds_nothing() -> None:
    assert find_segments(np.empty(0, dtype=np.uint16), MARKS, 20).contents.targets == 0
