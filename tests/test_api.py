from pathlib import Path

import pytest
import torch

from kiara_cli import api
from kiara_cli.api import generate_text, load_model, stream_text
from kiara_cli.config.load import to_mapping
from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import Config
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


SETTINGS = {
    "tokenizer.kind": "char", "model.context_length": 16, "model.emb_dim": 32, "model.n_layers": 1,
    "train.max_steps": 4, "train.batch_size": 4, "train.eval_interval": 2, "train.log_interval": 1,
    "eval.sample_tokens": 0, "runtime.device": "cpu", "runtime.dtype": "fp32", "runtime.threads": 1,
}  # fmt: skip


@pytest.fixture
def book() -> Path:
    Path("book.txt").write_text("the cat sat on the mat and the dog sat on the log. " * 40)
    return Path("book.txt")


def test_a_program_trains_measures_and_generates_and_torch_is_as_it_was(book: Path) -> None:
    before = torch.get_rng_state(), torch.get_num_threads(), torch.get_deterministic_debug_mode()
    events: list[str] = []
    run = api.train(book, SETTINGS, name="mine", on_event=lambda event: events.append(type(event).__name__))
    assert events[:3] == ["Planned", "Started", "Stepped"]
    assert events[-1] == "Finished"
    assert (run.run, run.folder, run.status, run.step) == ("mine", Path("checkpoints/mine"), "finished", 4)
    assert run.best == Path("checkpoints/mine/best.pt")
    assert api.evaluate(run.best).tokens > 0
    model = load_model(run.best, **PLAIN)
    assert api.evaluate(model).loss == pytest.approx(run.val_loss, rel=1e-6)
    assert api.evaluate(model, "train").tokens > api.evaluate(model).tokens > 0
    Path("other.txt").write_text("the cat sat")
    assert api.evaluate(model, text="other.txt").bytes == 11
    assert generate_text(model, "the", max_new_tokens=5, seed=1)
    after = torch.get_rng_state(), torch.get_num_threads(), torch.get_deterministic_debug_mode()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_a_program_resumes_and_starts_from_weights(book: Path) -> None:
    first = api.train(book, SETTINGS)
    again = api.train(resume=True, **{"train.max_steps": 6})
    assert (again.run, again.step) == (first.run, 6)
    assert again.best is not None
    other = api.train(book, {**SETTINGS, "train.max_steps": 1}, weights=again.best)
    assert other.run != first.run


def test_a_mistake_in_training_from_a_program_names_the_setting(book: Path) -> None:
    with pytest.raises(KiaraError, match=r"api\.train: model\.n_layer=4: no key 'n_layer' in model"):
        api.train(book, {"model.n_layer": 4})
    with pytest.raises(KiaraError, match="--resume continues a run"):
        api.train(book, resume=True)
    with pytest.raises(KiaraError, match="no run other in checkpoints"):
        api.train(book, baseline="other")
