"""The commands of a conversation, and the terminal it is held in, with a tiny real model."""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from library import knowledge
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from kiara_cli.app import main
from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import ChatConfig, GenerateConfig
from kiara_cli.console import repl
from kiara_cli.console.prompt import SlashCompleter
from kiara_cli.console.slash import COMMANDS, is_command, obey, said
from kiara_cli.console.talk import Talk
from kiara_cli.core.chat.session import Session
from kiara_cli.core.generate.engine import Options
from kiara_cli.core.generate.text import Piece, make_engine
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.errors import KiaraError

TOKENIZER = BPETokenizer.fit(["a little text"], 300)


def tiny_session(context: int = 96) -> Session:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=320, context_length=context, emb_dim=32, n_heads=4, n_layers=1)
    runtime = Runtime(torch.device("cpu"), "fp32", 1)
    engine = make_engine(Transformer(config), TOKENIZER, runtime, Options(prefix_bytes=1_000_000))
    settings = GenerateConfig(temperature=0, frequency_penalty=1)
    return Session(engine, TOKENIZER, settings, ChatConfig(max_new_tokens=6))


def no_model(word: str) -> Any:
    raise KiaraError(f"no checkpoint {word}", "train one first")


def no_index(name: str) -> Any:
    raise KiaraError(f"no index {name}", "make one first")


@pytest.fixture
def talk() -> Talk:
    return Talk(tiny_session(), "checkpoints/best.pt", no_model, no_index)


def after(talk: Talk, capsys: pytest.CaptureFixture[str], *lines: str) -> str:
    """Return what is said on stderr after these lines were typed."""
    capsys.readouterr()
    repl.answer_lines(talk, [line.encode() + b"\n" for line in lines])
    return capsys.readouterr().err


def test_what_is_a_command_and_what_is_said() -> None:
    assert all(map(is_command, [*COMMANDS, "/nonsense", "/set top_k 3", "/?", " /help"]))
    assert not any(
        map(is_command, ["hello", "/", "//help", "/home/me/x", "/etc/fstab is a file", "/ 2", "/1", "", "a /b"])
    )
    assert [said(line) for line in ("//help", "/home/me/x", "a//b")] == ["/help", "/home/me/x", "a//b"]


def test_every_command_stands_in_the_help_and_none_fails_without_words(talk: Talk, capsys: Any) -> None:
    shown = after(talk, capsys, "/help")
    assert all(f"{name} " in shown for name in COMMANDS)
    repl.answer_lines(talk, [b"hi\n"])
    for name in COMMANDS:
        obey(talk, name)
    assert talk.over


def test_a_command_that_is_none_is_said_with_the_nearest_and_not_sent(talk: Talk, capsys: Any) -> None:
    assert "There is no command /retyr; did you mean /retry? (To say it, write //retyr.)" in after(
        talk, capsys, "/retyr"
    )
    assert talk.session.messages == []


def test_settings_are_shown_changed_and_refused_where_nothing_would_read_them(talk: Talk, capsys: Any) -> None:
    assert "temperature is 0; a number, at least 0 and at most 100" in after(talk, capsys, "/set temperature")
    assert "temperature is now 0.5" in after(talk, capsys, "/set generate.temperature=0.5")
    assert "max_new_tokens is now 4" in after(talk, capsys, "/set max_new_tokens 4")
    assert "no key 'temprature' in generate; did you mean 'temperature'?" in after(talk, capsys, "/set temprature 1")
    assert "generate.streams is settled when a model is opened" in after(talk, capsys, "/set streams 2")
    assert "not a valid value" in after(talk, capsys, "/set top_k x")
    after(talk, capsys, "/system Be  kind = good.")
    assert talk.session.chat.system == "Be  kind = good."
    after(talk, capsys, "/set system null")
    assert talk.session.chat.system is None
    assert (talk.session.settings.temperature, talk.session.chat.max_new_tokens) == (0.5, 4)


def test_what_was_said_can_be_taken_back_changed_and_asked_again(talk: Talk, capsys: Any) -> None:
    after(talk, capsys, "one", "two", "/undo")
    first = list(talk.session.messages)
    assert [message["content"] for message in first[:1]] == ["one"]
    assert "the same, as temperature is 0" in after(talk, capsys, "/retry")
    assert talk.session.messages == first
    after(talk, capsys, "/edit three")
    assert [message["content"] for message in talk.session.messages[::2]] == ["three"]
    assert "nothing has been said yet" in after(talk, capsys, "/clear", "/undo")
    assert "/edit TEXT" in after(talk, capsys, "one", "/edit")


def test_what_was_read_before_is_not_read_again_after_undo(talk: Talk, capsys: Any) -> None:
    after(talk, capsys, "one", "two", "/undo")
    talk.session.messages.append({"role": "user", "content": "three"})
    asked, _ = talk.session.request().first()
    known = len(talk.session.template.encode(talk.session.messages[:2])) - 1
    assert talk.session.engine.prefixes.find(asked.prompt)[0] >= known


def test_a_saved_conversation_is_gone_on_with(talk: Talk, capsys: Any) -> None:
    after(
        talk,
        capsys,
        "/system Be kind.",
        "one",
        "/save a.jsonl",
        "two",
        "/save a.jsonl",
        "/clear",
        "x",
        "/save a.jsonl",
    )
    assert len(Path("a.jsonl").read_text().splitlines()) == 2
    with pytest.raises(SystemExit, match="0"):
        main(["tokenize", "a.jsonl", "tokenizer.kind=char", "data.val_fraction=0.5", "--json"])
    assert '"documents": 2' in capsys.readouterr().out  # conversations to learn from
    assert "5 messages" in after(talk, capsys, "/set system null", "/load a.jsonl 1")
    assert talk.session.chat.system == "Be kind."
    assert [message["content"] for message in talk.session.messages[::2]] == ["one", "two"]
    kept = list(talk.session.messages)
    for line, said_ in (
        ("/load b.jsonl", "cannot read b.jsonl"),
        ("/load", "no file is named"),
        ("/load a.jsonl 9", "no line 9"),
    ):
        assert said_ in after(talk, capsys, line)
        assert talk.session.messages == kept


def test_another_model_goes_on_with_the_conversation_or_nothing_changes(talk: Talk, capsys: Any) -> None:
    after(talk, capsys, "one")
    assert "error: no checkpoint other; train one first" in after(talk, capsys, "/model other")
    assert "there are no checkpoints here" in after(talk, capsys, "/model")
    other = tiny_session(64)
    opened = SimpleNamespace(
        engine=lambda: other.engine, tokenizer=TOKENIZER, conversations=True,
        checkpoint=SimpleNamespace(path=Path("checkpoints/other/best.pt")),
    )  # fmt: skip
    talk.open_model = lambda word: opened
    assert "Talking with checkpoints/other/best.pt now" in after(talk, capsys, "/model other")
    after(talk, capsys, "two")
    assert len(talk.session.messages) == 4
    assert talk.session.engine.context == 64


def test_tokens_and_stats_say_how_full_the_context_is(talk: Talk, capsys: Any) -> None:
    shown = after(talk, capsys, "a text", "/tokens")
    assert "a·" in shown
    used = len(talk.session.ids())
    assert f"{used} of 96 tokens" in shown
    assert f"{used} of 96 tokens" in after(talk, capsys, "/stats")
    assert after(talk, capsys, "/tokens a b") == "3 tokens\na·97 ␣·32 b·98\n"
    assert "of which the model reads the last 96 at most" in after(talk, capsys, "x" * 300, "/stats")


def test_tab_completes_commands_settings_models_and_files_and_leaves_messages_alone() -> None:
    def offered(text: str) -> list[str]:
        return [found.text for found in SlashCompleter().get_completions(Document(text), CompleteEvent())]

    for run in ("tales", "other"):
        Path("checkpoints", run).mkdir(parents=True)
        Path("checkpoints", run, "best.pt").touch()
        Path("checkpoints", run, "metrics.jsonl").write_text('{"val_loss": 1.5}\nhalf a li')
    Path("talk.jsonl").touch()
    assert offered("/re") == ["/retry"]
    assert offered("/set top") == ["top_k", "top_p"]
    assert offered("/model ta") == ["tales"]
    assert offered("/load ta") == ["lk.jsonl"]
    assert offered("hello /re") == offered("//re") == []


def held(talk: Talk, typed: str, capsys: Any) -> str:
    """Return what stdout shows of a conversation in a terminal."""
    talk.in_terminal = True
    with create_pipe_input() as keyboard:
        keyboard.send_text(typed)
        keyboard.close()  # a test that waits for more ends
        repl.hold(talk, input=keyboard, output=DummyOutput())
    out: str = capsys.readouterr().out
    return out


ENTER, ALT_ENTER, CTRL_C, CTRL_D = "\r", "\x1b\r", "\x03", "\x04"


def test_messages_of_several_lines_and_a_paste_are_one_message(talk: Talk, capsys: Any) -> None:
    paste = "".join(f"line {i} of many\n" for i in range(700))[:10_000]
    held(
        talk,
        f'"""{ENTER}/one{ENTER}two{ENTER}"""{ENTER}' + f"three{ALT_ENTER}four{ENTER}"
        + f"\x1b[200~{paste}\x1b[201~{ENTER}" + f"//set{ENTER}" + CTRL_D,
        capsys,
    )  # fmt: skip
    said_ = [message["content"] for message in talk.session.messages[::2]]
    assert said_ == ["/one\ntwo", "three\nfour", paste.strip(), "/set"]


def test_keys_that_drop_a_line_edit_a_message_and_leave(talk: Talk, capsys: Any) -> None:
    held(talk, f"dropped{CTRL_C}{CTRL_C}kept{ENTER}/edit{ENTER}\x05 too{ENTER}/exit{ENTER}", capsys)
    assert [message["content"] for message in talk.session.messages[::2]] == ["kept too"]


def test_history_is_private_from_its_first_byte_and_can_be_switched_off(talk: Talk, capsys: Any) -> None:
    before = os.umask(0)
    try:
        talk.session.chat = ChatConfig(history=False)
        held(talk, f"secret{ENTER}{CTRL_D}", capsys)
        assert not Path(".local").exists()
        talk.session.chat = ChatConfig(max_new_tokens=1)
        held(talk, f"hello{ENTER}{CTRL_D}", capsys)
    finally:
        os.umask(before)
    path = Path(".local/state/kiara/chat_history")
    assert "hello" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_ctrl_c_stops_a_reply_and_keeps_what_was_said(talk: Talk, capsys: Any, monkeypatch: Any) -> None:
    replying = type(talk.session).reply

    def interrupted(session: Session, text: str) -> Iterator[Any]:
        for event in replying(session, text):
            yield event
            if isinstance(event, Piece):
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(type(talk.session), "reply", interrupted)
    shown = held(talk, f"hello{ENTER}{CTRL_D}", capsys)
    kept = talk.session.messages[-1]["content"]
    assert kept.strip() in shown
    assert len(talk.session.messages) == 2
    whole = "".join(event.text for event in replying(tiny_session(), "hello") if isinstance(event, Piece))
    assert whole.startswith(kept)
    assert len(kept) < len(whole)


def test_what_is_typed_while_a_reply_comes_is_not_shown_and_not_lost(
    talk: Talk, capsys: Any, monkeypatch: Any
) -> None:
    leader, follower = os.openpty()
    os.set_blocking(leader, False)
    replying = type(talk.session).reply
    paste = "\x1b[200~" + "a line\r" * 1500 + "\x1b[201~"

    def typing(session: Session, text: str) -> Iterator[Any]:
        typed = list(map(paste.encode().__getitem__, [slice(0, 4000), slice(4000, 8000), slice(8000, None)]))
        typed.append(b"\r/exit\r")
        for event in replying(session, text):
            assert not select.select([follower], [], [], 0)[0]  # read at once: a full terminal lets no Ctrl-C through
            if text == "hello" and typed:
                os.write(leader, typed.pop(0))
            yield event
        assert text != "hello" or not typed

    with os.fdopen(follower) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(type(talk.session), "reply", typing)
        held(talk, f"hello{ENTER}", capsys)
        assert not select.select([leader], [], [], 0)[0]  # no echo
    os.close(leader)
    assert [message["content"] for message in talk.session.messages[::2]] == ["hello", ("a line\n" * 1500).strip()]


def test_a_fault_of_the_model_is_said_and_the_conversation_goes_on(talk: Talk, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(type(talk.session.engine), "_choose", lambda engine, requests, logits: [
        request.fail(KiaraError("the scores are no numbers", "train again")) for request in requests
    ])  # fmt: skip
    talk.in_terminal = True
    with create_pipe_input() as keyboard:
        keyboard.send_text(f"hello{ENTER}{CTRL_D}")
        repl.hold(talk, input=keyboard, output=DummyOutput())
    assert "(the scores are no numbers; train again)" in capsys.readouterr().err
    assert talk.session.messages == []


def test_sources_are_named_after_the_reply_shown_and_switched(talk: Talk, capsys: Any) -> None:
    notes, other = knowledge("The key lies\x1b[2J deep.", "The lamp."), knowledge("Dogs.", name="other")
    talk.open_knowledge = {"notes": notes, "other": other}.__getitem__
    assert "No index is in use; kiara index DOCS makes one." in after(talk, capsys, "/knowledge")
    assert "no sources; /knowledge NAME takes answers" in after(talk, capsys, "one", "/sources")
    said = after(talk, capsys, "/knowledge notes", "The key?")
    assert "Answers are taken from notes from now on." in said
    assert said.splitlines()[-1] == "[1] notes.md › Part, line 3 (file not found)"
    Path("notes.md").write_text("The key lies deep.")
    shown = after(talk, capsys, "/sources")
    assert shown.splitlines()[:2] == ["[1] notes.md › Part, line 3", "The key lies␛[2J deep."]
    talk.session.settings = GenerateConfig(temperature=0)
    assert "[1] notes.md › Part, line 3\n" in after(talk, capsys, "/retry")
    assert shown.splitlines()[2] == "(1 more passage was found that does not fit beside the question.)"
    assert "(No passage was put before this question.)" in after(talk, capsys, "/knowledge other", "Cats?")
    assert "(No passage was found for this question" in after(talk, capsys, "/sources")
    assert after(talk, capsys, "/knowledge off", "The key?", "/knowledge").count("[1]") == 0
    assert talk.session.messages[-2]["content"] == "The key?"
