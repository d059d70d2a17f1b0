from pathlib import Path

import pytest
import torch

from kiara_cli.api import generate_text, load_model, stream_text
from kiara_cli.config.load import to_mapping
from kiara_cli.config.schema import Config, ModelConfig
from kiara_cli.core.checkpoint import files
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.errors import KiaraError

PLAIN = {"device": "cpu", "dtype": "fp32", "threads": 1}


@pytest.fixture
def saved(tiny: ModelConfig) -> Path:
    """A checkpoint of a model that has learned nothing."""
    torch.manual_seed(0)
    model, tokenizer = Transformer(tiny), CharTokenizer("abcdef ")
    config = to_mapping(Config(model=tiny))
    checkpoint = files.Checkpoint(files.weights_of(model), config, tokenizer.state(), {}, {})
    files.save(checkpoint, Path("some.pt"))
    return Path("some.pt")


def test_a_model_is_loaded_and_writes_the_same_text_with_the_same_seed(saved: Path) -> None:
    model = load_model(saved, **PLAIN)
    text = generate_text(model, "abc", max_new_tokens=30, seed=1)
    assert text
    assert text == generate_text(model, "abc", max_new_tokens=30, seed=1)
    assert text == "".join(stream_text(model, "abc", max_new_tokens=30, seed=1))
    assert text != generate_text(model, "abc", max_new_tokens=30, seed=2)


def test_leaving_the_loop_ends_the_writing(saved: Path) -> None:
    model = load_model(saved, **PLAIN)
    for _ in stream_text(model, "abc", max_new_tokens=1000, seed=1):
        break
    model.engine.step()
    assert not model.engine.busy


def test_mistakes_name_what_is_wrong(saved: Path) -> None:
    model = load_model(saved, **PLAIN)
    with pytest.raises(KiaraError, match="no setting temprature; there are: max_new_tokens"):
        generate_text(model, "abc", temprature=1)
    with pytest.raises(KiaraError, match=r"generate\.temperature=-1"):
        generate_text(model, "abc", temperature=-1)
    with pytest.raises(KiaraError, match="no checkpoint"):
        load_model("nowhere.pt")
