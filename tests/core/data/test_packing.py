"""Whole documents and conversations share rows without seeing each other."""

from __future__ import annotations

import json
import tracemalloc
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import DataConfig, TokenizerConfig
from kiara_cli.core.data.batches import IGNORE, Batch, positions, share
from kiara_cli.core.data.packing import PackedBatcher, pack
from kiara_cli.core.data.prepare import prepare
from kiara_cli.core.data.readers import read_documents
from kiara_cli.core.data.shards import Shards
from kiara_cli.core.loss import batch_loss
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.chat_format import encode_conversation
from kiara_cli.errors import KiaraError

TOKENIZER = CharTokenizer.ascii()
MARKS = TOKENIZER.specials
MODEL = ModelConfig(vocab_size=128, context_length=32, emb_dim=32, n_heads=4, n_layers=2)


def talk(question: str, answer: str) -> list[int]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return encode_conversation(messages, TOKENIZER)[0]


def document(text: str) -> list[int]:
    return [MARKS["<|endoftext|>"], *TOKENIZER.encode(text)]


def batcher(*parts: list[int], context: int = 32, size: int = 2, loss_on: str = "assistant") -> PackedBatcher:
    return PackedBatcher(np.concatenate(parts).astype(np.uint16), MARKS, context, size, 7, loss_on)


def mixed(number: int = 40) -> list[list[int]]:
    """Documents of all lengths up to three rows, and a conversation after every fourth."""
    parts = []
    for n in range(number):
        parts.append(document("The fox sleeps. " * (n % 7)))
        parts += [talk("q" * (n % 5), "a" * (n % 7 + 1))] if n % 4 == 0 else []
    return parts


def an_epoch(packed: PackedBatcher) -> list[Batch]:
    return [packed.batch(step) for step in range(-(-packed.rows // packed.batch_size))]


def best_fit(lengths: NDArray[np.int32], room: int) -> list[list[int]]:
    """Pack one after the other, the plain way: into the row with the least space that is enough."""
    rows: list[list[int]] = []
    spaces: list[list[int]] = [[] for _ in range(room + 1)]
    for number in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[number])
        space = next((space for space in range(length, room + 1) if spaces[space]), None)
        if space is None:
            rows.append([])
            space, row = room, len(rows) - 1
        else:
            row = spaces[space].pop()
        rows[row].append(number)
        spaces[space - length].append(row)
    return rows


@given(st.integers(1, 40).flatmap(lambda room: st.tuples(st.just(room), st.lists(st.integers(1, room)))))
def test_packing_by_lengths_is_packing_one_after_the_other(case: tuple[int, list[int]]) -> None:
    room, lengths = case[0], np.array(case[1], dtype=np.int32)
    rows = pack(lengths, room)
    assert [rows[row].tolist() for row in range(len(rows))] == best_fit(lengths, room)


def test_rows_hold_whole_conversations_and_every_target_once_an_epoch() -> None:
    talks = [talk("q" * (n % 5), "a" * (n % 7 + 1)) for n in range(40)]
    packed = batcher(*talks, size=1)
    answers = 0
    for batch in an_epoch(packed):
        assert batch.inputs[0, 0] == MARKS["<|endoftext|>"]
        assert batch.target_count == int((batch.targets != IGNORE).sum())
        answers += batch.target_count
    assert answers == sum(n % 7 + 2 for n in range(40))
    assert packed.rows < len(talks)


def test_documents_and_conversations_of_one_corpus_are_both_learned_from() -> None:
    """One conversation among documents once switched learning off for all of them."""
    parts = [*[document(f"This is story {n}.") for n in range(100)], talk("why", "because")]
    packed = batcher(*parts, size=1)
    learned = np.concatenate([batch.targets[batch.targets != IGNORE].numpy() for batch in an_epoch(packed)])
    ends = [MARKS["<|endoftext|>"]] * 100  # the end of each document is learned too
    expected = [*chain.from_iterable(part[1:] for part in parts[:-1]), *ends, *talk("", "because")[4:]]
    assert sorted(learned.tolist()) == sorted(expected)
    assert packed.contents.conversation_targets == len("because") + 1
    assert packed.contents.document_targets == sum(map(len, parts[:-1]))


def test_a_document_longer_than_a_row_loses_nothing() -> None:
    text = "".join(chr(32 + n % 90) for n in range(80))  # no character twice within a row
    packed = batcher(document(text), talk("q", "a"), size=1)
    learned: list[int] = []
    for batch in an_epoch(packed):
        row = batch.targets[0, batch.segments[0] == 0].tolist()  # type: ignore[index]
        learned += [token for token in row if token != IGNORE]
    assert sorted(learned) == sorted([*TOKENIZER.encode(text), MARKS["<|endoftext|>"]])


def test_loss_on_all_takes_every_id_that_can_be_predicted() -> None:
    packed = batcher(talk("why", "so"), size=1, loss_on="all")
    assert packed.batch(0).target_count == len(talk("why", "so")) - 1


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_a_row_of_several_has_the_loss_that_each_has_alone(loss_on: str) -> None:
    model = Transformer(MODEL).eval()
    packed, matters = batcher(*mixed(), loss_on=loss_on), False
    with torch.no_grad():
        for batch in an_epoch(packed)[-6:]:
            assert batch.segments is not None
            together, alone = float(batch_loss(model, batch)[1]), 0.0
            for inputs, targets, segments in zip(batch.inputs, batch.targets, batch.segments, strict=True):
                for segment in segments.unique():
                    own = segments == segment
                    alone += float(batch_loss(model, Batch.of(inputs[own][None], targets[own][None]))[1])
            assert together == pytest.approx(alone, rel=1e-5)
            seeing = Batch.of(batch.inputs, batch.targets)
            matters |= float(batch_loss(model, seeing)[1]) != pytest.approx(together, rel=1e-4)
    assert matters


def test_a_split_without_a_target_is_refused() -> None:
    silent = encode_conversation([{"role": "user", "content": "anyone?"}], TOKENIZER)[0]
    packed = batcher(silent, silent)
    assert packed.rows == 0
    with pytest.raises(KiaraError, match=r"no target in the text: none .* \(2\) has a reply within"):
        packed.contents.check("the text", 32)
    assert batcher(silent, talk("q", "a")).contents.silent == 1
    assert batcher(silent, talk("q", "a")).rows == 1, "nothing is learned from the other one"


def test_too_long_conversations_are_counted_and_cut() -> None:
    packed = batcher(talk("q", "a" * 100), talk("q", "a"), size=1)
    assert packed.contents.too_long == 1
    assert packed.batch(0).inputs.shape == (1, 32)


def test_an_epoch_shuffles_rows_differently_from_the_next() -> None:
    packed = batcher(*[talk(str(n), "a" * 20) for n in range(30)], size=1)
    order = [[packed.batch(e * packed.rows + i).inputs.tolist() for i in range(packed.rows)] for e in (0, 1)]
    assert order[0] != order[1]
    assert sorted(order[0]) == sorted(order[1])


@given(step=st.integers(0, 60), world=st.integers(1, 5), primer=st.booleans())
def test_processes_together_take_what_one_would_and_count_it(step: int, world: int, primer: bool) -> None:
    tokens = np.concatenate(mixed()).astype(np.uint16)
    packed = PackedBatcher(tokens, MARKS, 32, 13, 7, primer=primer)
    packed.batch(step + 1)  # what was asked for before changes nothing
    whole, parts = packed.batch(step), [packed.at(share(positions(step, 13), rank, world)) for rank in range(world)]
    for name in ("inputs", "targets", "segments"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert packed.targets(step) == sum(part.target_count for part in parts) == whole.target_count


def test_a_primer_shows_the_short_conversations_once_before_an_ordinary_epoch() -> None:
    parts = [talk("q", "a" * (3 if n % 3 else 24)) for n in range(30)] + [document("abc")] * 10
    plain, primed = (
        PackedBatcher(np.concatenate(parts).astype(np.uint16), MARKS, 32, 1, 7, primer=primer)
        for primer in (False, True)
    )
    first = len(primed.first)
    assert first > 1
    assert len(primed.first.order) == 20  # each short one, once
    for step in range(first):
        assert (primed.batch(step).inputs == MARKS["<|assistant|>"]).sum() > 1, (
            "they share rows with each other alone"
        )
    starts = ((plain, 0), (primed, first))
    order = [[one.batch(start + i).inputs.tolist() for i in range(one.rows)] for one, start in starts]
    assert order[0] == order[1]


def test_several_token_files_are_packed_as_one() -> None:
    tokens = np.concatenate(mixed()).astype(np.uint16)
    one, many = (
        PackedBatcher(given, MARKS, 32, 4, 7)
        for given in (tokens, Shards([tokens[:99], tokens[99:100], tokens[100:]]))
    )
    for step in range(8):
        assert torch.equal(one.batch(step).targets, many.batch(step).targets)


def test_packing_holds_arrays_of_a_few_bytes_a_conversation() -> None:
    number = 100_000
    tokens = np.tile(np.array(talk("hi", "yo"), dtype=np.uint16), number)
    tracemalloc.start()
    packed = PackedBatcher(tokens, MARKS, 256, 4, 7)
    packed.batch(3)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 30 * number
    assert peak < 70 * number  # ten million in much less than a gigabyte


def test_jsonl_of_messages_becomes_a_data_folder(tmp_path) -> None:
    lines = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}]}
        for n in range(20)
    ]
    path = tmp_path / "chat.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    prepared = prepare(DataConfig(source=str(path)), TokenizerConfig(kind="char"), tmp_path / "data")
    assert prepared.meta.conversations == prepared.meta.documents == 20
    path.write_text('{"messages": [{"role": "user", "content": "a"}]}\nnot json\n')
    with pytest.raises(KiaraError, match="line 2"):
        read_documents(str(path))


def test_tales_are_written_and_reopened_by_their_identity(tmp_path) -> None:
    def folder_of(seed: int):
        data = DataConfig(source="tales", corpus_bytes=30_000, corpus_seed=seed)
        return prepare(data, TokenizerConfig(vocab_size=400), tmp_path / "data")

    first, again, other = folder_of(0), folder_of(0), folder_of(1)
    assert first.folder == again.folder != other.folder
    assert first.meta.train_conversations
