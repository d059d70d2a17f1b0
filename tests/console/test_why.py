"""/why in a conversation: the least certain tokens, all of them, or one word."""

from __future__ import annotations

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import ChatConfig, GenerateConfig
from kiara_cli.console.slash import obey
from kiara_cli.console.talk import Talk
from kiara_cli.console.why import ROWS
from kiara_cli.core.chat.session import Session
from kiara_cli.core.generate.engine import Engine
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.bpe import BPETokenizer

TEXT = "Once upon a time a fox met a hen. The fox said good day, and the hen said good night.\n"


def test_the_last_reply_is_explained_token_by_token(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    tokenizer = BPETokenizer.fit([TEXT * 30], 320)
    model = Transformer(ModelConfig(vocab_size=384, context_length=96, emb_dim=32, n_heads=4, n_layers=2))
    session = Session(
        Engine(model, Runtime(torch.device("cpu"), "fp32", 1)), tokenizer, GenerateConfig(), ChatConfig()
    )
    talk = Talk(session, "tiny", lambda word: pytest.fail("no other model is wanted"), pytest.fail)
    obey(talk, "/why")
    assert capsys.readouterr().err.strip() == "error: there is no reply to explain; say something first"
    session.messages += [{"role": "user", "content": "A fox?"}, {"role": "assistant", "content": TEXT[:-1]}]
    length = len(tokenizer.encode(TEXT[:-1]))
    assert length > ROWS
    for word, rows in (("", ROWS), ("all", length), ("fox", 2), ("said good night", 4)):
        obey(talk, f"/why {word}")
        said = capsys.readouterr()
        assert said.out == ""
        lines = said.err.splitlines()
        assert lines[0].split() == ["token", "p", "instead", "of", "it", "leaned", "on"]
        assert len([line for line in lines[1:-1] if " %" in line and not line.startswith(" ")]) == rows, said.err
        assert lines[-1].startswith("leaned on: earlier tokens")
    obey(talk, "/why wolf")
    assert "the last reply does not say 'wolf'" in capsys.readouterr().err
