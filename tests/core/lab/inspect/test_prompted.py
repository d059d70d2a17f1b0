"""A prompt is what `kiara chat` reads, its answer what it would say; and two prompts are compared token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import ChatConfig, Config, GenerateConfig
from kiara_cli.core.chat.session import Session
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.generate.text import Completion
from kiara_cli.core.lab.inspect.pairing import Wanted, pair
from kiara_cli.core.lab.inspect.prompted import label, make_prompted, plain_engine
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.errors import KiaraError

TEXT = "Once upon a time a fox met a hen. The fox said good day, and the hen said good night.\n"


@pytest.fixture(scope="module")
def talking() -> Opened:
    """A tiny model, opened as one that learned from conversations, whose choices are clear."""
    torch.manual_seed(0)
    tokenizer = BPETokenizer.fit([TEXT * 30], 320)
    model = Transformer(ModelConfig(vocab_size=384, context_length=96, emb_dim=32, n_heads=4, n_layers=2))
    with torch.no_grad():
        model.tokens.weight.normal_(std=0.5)
        model.head.weight.normal_(std=0.5)
    checkpoint: Any = Checkpoint.__new__(Checkpoint)
    object.__setattr__(checkpoint, "path", Path("best.pt"))
    object.__setattr__(checkpoint, "data", {"conversations": True})
    config = Config(chat=ChatConfig(system="Be brief.", max_new_tokens=12))
    return Opened(checkpoint, config, model, tokenizer, Runtime(torch.device("cpu"), "fp32", 1))


def test_a_conversation_reads_as_in_chat_and_its_answer_is_the_greedy_one(talking: Opened) -> None:
    settings = GenerateConfig(temperature=0)
    chat = talking.config.chat
    session = Session(plain_engine(talking), talking.tokenizer, settings, chat)
    *_, first = session.reply("Hello fox.")
    assert isinstance(first, Completion)
    session.messages.append({"role": "user", "content": "And the hen?"})
    asked, _ = session.request().first()
    found = make_prompted(talking, ["Hello fox.", "And the hen?"], tokens=5)
    assert found.ids[: found.start] == list(asked.prompt)
    ids = list(found.ids[: found.start])
    with torch.no_grad():
        for token in found.answer:
            scores = talking.model(torch.tensor([ids]))[0, -1]
            for name, number in talking.tokenizer.specials.items():
                scores[number] = scores[number] if name in ("<|end|>", "<|endoftext|>") else -1e9
            scores[talking.tokenizer.size :] = -1e9
            assert token == int(scores.argmax())
            ids.append(token)
    assert len(found.labels) == len(found.ids)
    assert found.labels[:2] == ["<|endoftext|>", "<|system|>"]


def test_a_token_is_written_on_one_line(talking: Opened) -> None:
    tokenizer = talking.tokenizer
    assert [label(tokenizer, token) for token in tokenizer.encode("a\n")] == ["a", "↵"]
    assert "␣fox" in [label(tokenizer, token) for token in tokenizer.encode("a fox")]
    assert label(tokenizer, 380) == "<380>"


def test_the_word_that_is_explained_is_where_two_answers_part(talking: Opened) -> None:
    wanted = Wanted(["Hello"], answer="The fox said", raw=True, against="The hen said", corrupt=["Jello"])
    encode = talking.tokenizer.encode
    found = pair(talking, wanted)
    place = found.position - found.prompted.start
    assert found.prompted.ids[found.position] == encode("The fox said")[place] != encode("The hen said")[place]
    assert found.against == encode("The hen said")[place]
    assert encode("The fox said")[:place] == encode("The hen said")[:place]
    assert found.corrupt is not None
    assert len(found.corrupt.ids) == found.position
    assert found.corrupt.ids[found.corrupt.start :] == found.prompted.ids[found.prompted.start : found.position]
    named = pair(talking, Wanted(["Hello"], answer="The fox said", raw=True, word="said"))
    assert named.prompted.ids[named.position :] == encode(" said")
    assert named.against is None
    with pytest.raises(KiaraError, match="the answer does not say 'hen'; it is 'The fox said'"):
        pair(talking, Wanted(["Hello"], answer="The fox said", raw=True, word="hen"))


WRONG: list[tuple[Wanted, str]] = [
    (Wanted(["  "]), "--prompt is empty; give a text"),
    (Wanted(["Hello", "Jello"], raw=True), "--raw takes one --prompt"),
    (Wanted(["Hello"], answer="", raw=True), "--answer is empty"),
    (Wanted(["Hello"], corrupt=["Hello"], raw=True, tokens=4), "both answers begin with the same 4 tokens"),
    (
        Wanted(["Hello"], corrupt=["Hello fox"], raw=True, tokens=4),
        "they differ, nothing against ␣fox; write something",
    ),
    (Wanted(["fox " * 96], raw=True), "tokens long, and this model reads 96 at once"),
    (Wanted([" fox" * 96], raw=True), "there is no room for an answer; shorten --prompt"),
]


def test_a_prompt_that_cannot_be_looked_at_is_refused(talking: Opened) -> None:
    for wanted, message in WRONG:
        with pytest.raises(KiaraError) as refused:
            pair(talking, wanted)
        assert message in str(refused.value)
