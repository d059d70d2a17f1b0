"""A conversation with an index: what is searched, what the model reads, and that no passage opens a turn."""

from __future__ import annotations

import pytest
import torch
from library import FORGED, knowledge

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import ChatConfig, GenerateConfig
from kiara_cli.core.chat.answered import answered
from kiara_cli.core.chat.fit import prompt_budget
from kiara_cli.core.chat.knowledge import SHARE, as_read, consult, prompt_with
from kiara_cli.core.chat.saved import load, save
from kiara_cli.core.chat.session import Session
from kiara_cli.core.generate.engine import Options
from kiara_cli.core.generate.text import make_engine
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.retrieve.prompt import Knowledge, Unsearchable
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.conversation import template_for
from kiara_cli.core.tokenizer.protocol import decode

KEY, LAMP = "The key lies under the stone.", "The lamp is red."
BPE = BPETokenizer.fit([f"{KEY} {LAMP} Passages: Where? "] * 3, 330)


@pytest.fixture
def session() -> Session:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=352, context_length=128, emb_dim=32, n_heads=4, n_layers=1)
    runtime = Runtime(torch.device("cpu"), "fp32", 1)
    engine = make_engine(Transformer(config), BPE, runtime, Options(prefix_bytes=1_000_000))
    made = Session(engine, BPE, GenerateConfig(temperature=0), ChatConfig(max_new_tokens=6))
    made.knowledge = knowledge(KEY, LAMP)
    return made


def say(session: Session, text: str) -> str:
    """Say something and return what the model read."""
    list(session.reply(text))
    return decode(BPE, session.template.encode(session.read()))


def test_only_the_newest_question_carries_passages_and_what_was_said_is_kept_without_them(session: Session) -> None:
    first = say(session, "Where is the key?")
    assert f"Passages:[1] {KEY}" in first.replace("\n", "")
    second = say(session, "And what colour has the lamp?")
    assert second.count("Passages:") == 1
    assert second.index("Where is the key?") < second.index("Passages:")
    assert f"[1] {LAMP}" in second
    assert [message["content"] for message in session.messages[::2]] == [
        "Where is the key?", "And what colour has the lamp?",
    ]  # fmt: skip
    assert [source.line for source in session.sources] == [
        "[1] notes.md › Part, line 13", "[2] notes.md › Part, line 3",
    ]  # fmt: skip


def test_undo_and_a_new_conversation_take_the_sources_with_them(session: Session) -> None:
    say(session, "Where is the key?")
    before = session.read()
    say(session, "And the lamp?")
    session.undo()
    assert session.read() == before
    assert session.sources[0].text == KEY
    session.undo()
    session.knowledge = None
    assert "Passages" not in say(session, "Where is the key?")
    session.clear()
    assert (session.sources, session.grounded) == ((), {})


def test_a_saved_conversation_holds_what_was_said_and_is_gone_on_with(session: Session, tmp_path) -> None:  # type: ignore[no-untyped-def]
    say(session, "Where is the key?")
    save(tmp_path / "talk.jsonl", session.messages)
    assert "Passages" not in (tmp_path / "talk.jsonl").read_text()
    said = list(session.messages)
    session.clear()
    session.messages.extend(load(tmp_path / "talk.jsonl"))
    assert session.read() == said
    assert KEY in say(session, "Where did you say that the key is?")


def test_why_explains_the_reply_to_what_was_read(session: Session) -> None:
    say(session, "Where is the key?")
    asked = session.template.encode(session.read()[:-1])
    ids, start = answered(session.template, session.system, session.read(), session.engine.context)
    assert ids[:start] == asked
    assert len(asked) > len(session.template.encode(session.messages[:-1]))


def test_turns_with_an_index_never_fail_and_keep_the_question_and_room_for_the_reply(session: Session) -> None:
    session.chat = ChatConfig(max_new_tokens=6, system="Be kind.")
    session.knowledge = knowledge(KEY, LAMP, "word " * 60, "\x00🦊 key " * 30)
    for number in range(12):
        question = f"Where is key {number}? " + "Tell me more of the word. " * (number % 5)
        list(session.reply(question))
        ids, forgot = session.request().first()[0].prompt, session.request().first()[1]
        assert len(ids) <= session.engine.context
        assert forgot is None or not forgot.tokens or number % 5 == 4
        asked = session.newest_grounded
        assert asked is not None
        assert asked.text.endswith(question)


@pytest.mark.parametrize("text", ["x" * 100_000, "key " * 25_000])
def test_a_question_longer_than_the_context_is_asked_without_passages(session: Session, text: str) -> None:
    list(session.reply(text))
    assert session.sources == ()
    assert session.messages[0]["content"] == text


def test_a_search_that_fails_takes_the_message_back(session: Session) -> None:
    class Gone(Knowledge):
        def search(self, question: str, former: str | None = None) -> list:  # type: ignore[type-arg]
            raise Unsearchable("nothing answers", "start it")

    assert session.knowledge is not None
    session.knowledge = Gone("gone", session.knowledge.index)
    with pytest.raises(Unsearchable, match="nothing answers; start it"):
        list(session.reply("Where is the key?"))
    assert session.messages == []


def test_passages_take_at_most_their_share_of_what_is_read() -> None:
    template, budget = template_for(CharTokenizer.ascii(), True), prompt_budget(400, 100)
    turns = [{"role": "user", "content": "Where is the key?"}]
    grounded = consult(knowledge("The key. " * 200), template, (), turns, budget)
    assert grounded is not None
    alone, asked = (len(template.encode(some)) for some in (turns, as_read(turns, grounded)))
    assert budget // SHARE - 20 < asked - alone <= budget // SHARE


@pytest.mark.parametrize("conversations", [True, False], ids=["turn marks", "transcript"])
@pytest.mark.parametrize("tokenizer", [CharTokenizer.ascii(), BPE], ids=["char", "bpe"])
def test_a_passage_with_marks_of_any_format_changes_no_turn(tokenizer, conversations: bool) -> None:  # type: ignore[no-untyped-def]
    template = template_for(tokenizer, conversations)
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": "Obey whom?"},
    ]
    read = {}
    for text in (FORGED, "Obey nobody."):
        grounded = consult(knowledge(text), template, (), turns, 10_000)
        assert grounded is not None
        assert len(grounded.sources) == 1
        ids = template.encode(as_read(turns, grounded))
        lines = decode(tokenizer, ids).split("\n")
        marks = [token for token in ids if token in tokenizer.specials.values()]
        read[text] = marks, [line for line in lines if line in ("User:", "Assistant:", "[2]")]
    assert read[FORGED] == read["Obey nobody."]


def test_a_single_question_is_a_turn_for_a_model_that_answers_and_else_a_text_to_continue() -> None:
    for conversations, opened in ((True, ["<|endoftext|>", "<|user|>", "<|end|>", "<|assistant|>"]), (False, [])):
        template = template_for(BPE, conversations)
        ids, grounded = prompt_with(knowledge(KEY), template, "Where is the key?", 200)
        assert decode(BPE, ids).endswith(f"[1] {KEY}\n\nWhere is the key?")
        names = {token: name for name, token in BPE.specials.items()}
        assert [names[token] for token in ids if token in names] == opened
        assert grounded.sources[0].passage.text == KEY
