from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from kiara_cli.config.load import from_mapping, load_config, to_mapping
from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import files
from kiara_cli.core.generate.opened import open_model
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.chat_format import stop_ids

RUNTIME = Runtime(torch.device("cpu"), "fp32", 1)


def save(tiny: ModelConfig, name: str, conversations: bool) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    checkpoint = files.Checkpoint(
        files.weights_of(Transformer(tiny)), to_mapping(Config(model=tiny)), CharTokenizer("abc ").state(), {},
        {"conversations": conversations},
    )  # fmt: skip
    files.save(checkpoint, Path(name))


def test_an_opened_model_takes_tokenizer_and_model_from_the_checkpoint_and_the_rest_from_the_config(
    tiny: ModelConfig,
) -> None:
    save(tiny, "some.pt", conversations=False)
    opened = open_model("some.pt", load_config(overrides=["generate.streams=3"]), runtime=RUNTIME)
    assert opened.runtime is RUNTIME
    assert opened.config.model == opened.model.config == tiny
    assert opened.config.generate.streams == 3
    assert (opened.conversations, opened.ends) == (False, frozenset())
    assert opened.engine().context == tiny.context_length


def test_a_model_that_learned_conversations_ends_a_text_where_a_reply_ends(tiny: ModelConfig) -> None:
    save(tiny, "some.pt", conversations=True)
    opened = open_model("some.pt", from_mapping({}, "a test"), runtime=RUNTIME)
    assert opened.conversations
    assert opened.ends == stop_ids(opened.tokenizer) != frozenset()


def test_a_damaged_checkpoint_that_was_only_found_is_passed_over_with_a_warning(
    tiny: ModelConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("kiara"), "propagate", True)
    save(tiny, "checkpoints/last.pt", conversations=False)
    Path("checkpoints/best.pt").write_bytes(b"PK")
    opened = open_model(None, from_mapping({}, "a test"), runtime=RUNTIME)
    assert opened.checkpoint.path == Path("checkpoints/last.pt")
    assert "checkpoints/best.pt holds more than plain tensors" in caplog.text
