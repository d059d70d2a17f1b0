"""Whole conversations share rows without seeing each other."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from kiara_cli.config.schema import DataConfig, ModelConfig, TokenizerConfig
from kiara_cli.core.data.batches import IGNORE
from kiara_cli.core.data.packing import PackedBatcher
from kiara_cli.core.data.prepare import prepare
from kiara_cli.core.data.readers import read_documents
from kiara_cli.core.loss import batch_loss
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.chat_format import encode_conversation
from kiara_cli.errors import KiaraError

TOKENIZER = CharTokenizer.ascii()
MARKS = TOKENIZER.specials


def talk(question: str, answer: str) -> list[int]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return encode_conversation(messages, TOKENIZER)[0]


def batcher(*talks: list[int], context: int = 32, size: int = 2, loss_on: str = "assistant") -> PackedBatcher:
    return PackedBatcher(np.concatenate(talks).astype(np.uint16), MARKS, context, size, 7, loss_on)


def test_rows_hold_whole_conversations_and_every_target_once_an_epoch() -> None:
    talks = [talk("q" * (n % 5), "a" * (n % 7 + 1)) for n in range(40)]
    packed = batcher(*talks, size=1)
    answers = 0
    for step in range(packed.rows):
        batch = packed.batch(step)
        assert batch.inputs[0, 0] == MARKS["<|endoftext|>"]
        assert batch.target_count == int((batch.targets != IGNORE).sum())
        answers += batch.target_count
    assert answers == sum(n % 7 + 2 for n in range(40))
    assert packed.rows < len(talks)


def test_loss_on_all_takes_every_id_that_can_be_predicted() -> None:
    packed = batcher(talk("why", "so"), size=1, loss_on="all")
    assert packed.batch(0).target_count == len(talk("why", "so")) - 1


def test_a_conversation_is_blind_to_its_neighbours_in_the_row() -> None:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=128, context_length=32, emb_dim=32, n_heads=4, n_layers=2)
    model = Transformer(config).eval()
    second = talk("who", "me")
    outputs = []
    for first in (talk("aaa", "bbb"), talk("xyz", "123")):
        batch = batcher(first, second, size=1).batch(0)
        logits = model(batch.inputs, segments=batch.segments)
        outputs.append(logits[0, len(first) : len(first) + len(second)])
    assert torch.equal(outputs[0], outputs[1])
    batch = batcher(talk("xyz", "123"), second, size=1).batch(0)
    seeing = model(batch.inputs)[0, len(second) + 3 :]
    assert not torch.allclose(seeing[: len(second)], outputs[1], atol=1e-4)
    assert torch.isfinite(batch_loss(model, batch)[0])


def test_a_batch_without_targets_has_loss_zero_and_no_nan() -> None:
    model = Transformer(ModelConfig(vocab_size=128, context_length=32, emb_dim=32, n_heads=4, n_layers=1))
    silent = encode_conversation([{"role": "user", "content": "anyone?"}], TOKENIZER)[0]
    packed = batcher(silent, size=1)
    loss, _ = batch_loss(model, packed.batch(0))
    loss.backward()
    assert loss == 0
    assert packed.without_target == 1
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_too_long_conversations_are_counted_and_cut() -> None:
    packed = batcher(talk("q", "a" * 100), talk("q", "a"), size=1)
    assert packed.too_long == 1
    assert packed.batch(0).inputs.shape == (1, 32)


def test_an_epoch_shuffles_rows_differently_from_the_next() -> None:
    packed = batcher(*[talk(str(n), "a" * 20) for n in range(30)], size=1)
    order = [[packed.batch(e * packed.rows + i).inputs.tolist() for i in range(packed.rows)] for e in (0, 1)]
    assert order[0] != order[1]
    assert sorted(order[0]) == sorted(order[1])


def test_a_primer_shows_the_short_conversations_once_before_an_ordinary_epoch() -> None:
    talks = [talk("q", "a" * (3 if n % 3 else 24)) for n in range(30)]
    plain, primed = (
        PackedBatcher(np.concatenate(talks).astype(np.uint16), MARKS, 32, 1, 7, primer=primer)
        for primer in (False, True)
    )
    first = len(primed.first_rows)
    assert first > 1
    assert sum(map(len, primed.first_rows)) == 20  # each short one, once
    for step in range(first):
        documents = (primed.batch(step).inputs == MARKS["<|assistant|>"]).sum()
        assert documents > 1  # they share rows with each other alone
    starts = ((plain, 0), (primed, first))
    order = [[one.batch(start + i).inputs.tolist() for i in range(one.rows)] for one, start in starts]
    assert order[0] == order[1]


def test_jsonl_of_messages_becomes_a_data_folder(tmp_path) -> None:
    lines = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}]}
        for n in range(20)
    ]
    path = tmp_path / "chat.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    prepared = prepare(DataConfig(source=str(path)), TokenizerConfig(kind="char"), tmp_path / "data")
    assert prepared.meta.conversations
    assert prepared.meta.documents == 20
    path.write_text('{"messages": [{"role": "user", "content": "a"}]}\nnot json\n')
    with pytest.raises(KiaraError, match="line 2"):
        read_documents(str(path))


def test_tales_are_written_and_reopened_by_their_identity(tmp_path) -> None:
    def folder_of(seed: int):
        data = DataConfig(source="tales", corpus_bytes=30_000, corpus_seed=seed)
        return prepare(data, TokenizerConfig(vocab_size=400), tmp_path / "data")

    first, again, other = folder_of(0), folder_of(0), folder_of(1)
    assert first.folder == again.folder != other.folder
    assert first.meta.conversations
