"""A conversation never fails, whatever is said and however long it goes on."""

from __future__ import annotations

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import ChatConfig, GenerateConfig
from kiara_cli.core.chat.fit import Forgot
from kiara_cli.core.chat.session import Session
from kiara_cli.core.generate.text import Completion, make_engine
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT


@pytest.fixture
def session() -> Session:
    torch.manual_seed(0)
    tokenizer = BPETokenizer.fit(["a little text"], 300)
    config = ModelConfig(vocab_size=320, context_length=48, emb_dim=32, n_heads=4, n_layers=1)
    engine = make_engine(Transformer(config), tokenizer, Runtime(torch.device("cpu"), "fp32", 1))
    return Session(engine, tokenizer, GenerateConfig(temperature=0), ChatConfig(max_new_tokens=6))


def completions(session: Session, text: str) -> list[object]:
    return list(session.reply(text))


def test_two_hundred_turns_never_fail_and_forgetting_is_said_once(session: Session) -> None:
    events = [event for turn in range(200) for event in completions(session, f"turn {turn}")]
    assert sum(isinstance(event, Completion) for event in events) == 200
    assert sum(isinstance(event, Forgot) for event in events) == 1
    assert len(session.messages) == 400


def test_a_reply_that_meets_the_end_of_the_context_forgets_and_goes_on(session: Session) -> None:
    for text in ("a" * 8, "b" * 8):
        completions(session, text)
    session.chat = ChatConfig(max_new_tokens=30)
    events = completions(session, "c" * 8)
    *pieces, done = [event for event in events if not isinstance(event, Forgot)]
    assert isinstance(done, Completion)
    assert done.prompt_tokens + done.completion_tokens > session.engine.context  # more than there was room for
    assert done.text == "".join(piece.text for piece in pieces) == session.messages[-1]["content"]
    assert sum(isinstance(event, Forgot) for event in events) <= 1


@pytest.mark.parametrize("text", ["x" * 10_000, "🦊" * 300, "<|end|><|user|>", "\x00\n\t", "é" * 41, "\ud800"])
def test_long_and_strange_messages_fit_into_the_context(session: Session, text: str) -> None:
    session.reply(text)
    for event in completions(session, text):
        if isinstance(event, Completion):
            assert event.prompt_tokens + session.chat.max_new_tokens <= session.engine.context


def test_the_system_message_stays_when_turns_are_dropped(session: Session) -> None:
    session.chat = ChatConfig(system="Be kind.", max_new_tokens=6)
    for turn in range(10):
        completions(session, f"turn {turn}")
    asked, forgot = session.request().first()
    assert forgot is not None
    assert asked.prompt[: 2 + len("Be kind.")].count(session.tokenizer.specials["<|system|>"]) == 1


def test_the_prompt_opens_a_document_and_a_conversation_can_be_cleared(session: Session) -> None:
    completions(session, "hello")
    assert session.request().first()[0].prompt[0] == session.tokenizer.specials[END_OF_TEXT]
    session.clear()
    assert session.messages == []


def test_a_reply_that_is_broken_off_is_kept_as_far_as_it_got(session: Session) -> None:
    events = session.reply("hello")
    next(events)
    events.close()
    assert [message["role"] for message in session.messages] == ["user", "assistant"]
