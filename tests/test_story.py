"""The whole life of a model through the command line; it grows with each stage that lands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kiara_cli.app import main
from kiara_cli.core.checkpoint import files

SETTINGS = [
    "model.context_length=32", "model.emb_dim=32", "model.n_heads=4", "model.n_layers=2",
    "train.max_steps=40", "train.batch_size=8", "train.lr=0.01", "train.eval_interval=20", "eval.sample_tokens=8",
    "runtime.device=cpu", "runtime.dtype=fp32", "runtime.threads=1",
]  # fmt: skip
ENDLESS = [word for word in SETTINGS if not word.startswith("model.")]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> object:
    def command(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        captured = capsys.readouterr()
        assert stop.value.code == 0, captured.err
        assert "Traceback" not in captured.err
        return captured.out

    return command


@pytest.mark.slow
def test_a_text_becomes_a_model_that_is_measured_continues_texts_and_is_trained_further(run: object) -> None:
    assert callable(run)
    Path("book.txt").write_text("The cat sat on the mat. The dog sat on the log.\nThe end of the tale!\n" * 100)
    settings = [*SETTINGS, "tokenizer.kind=bpe", "tokenizer.vocab_size=300"]

    made = json.loads(run("tokenize", "book.txt", *settings, "--json"))
    before = {path: path.stat().st_mtime_ns for path in Path(made["folder"]).iterdir()}

    *_, trained = map(json.loads, run("train", "book.txt", *settings, "--json").splitlines())
    assert trained["status"] == "finished"
    assert {path: path.stat().st_mtime_ns for path in Path(made["folder"]).iterdir()} == before  # used as it was
    assert [path.name for path in Path("data").iterdir()] == [Path(made["folder"]).name]

    measured = json.loads(run("eval", "--json", "runtime.dtype=fp32"))  # auto may choose bf16
    assert measured["loss"] == pytest.approx(trained["val_loss"], rel=1e-5)
    assert measured["tokens"] == made["val_tokens"] - 1

    ids = run("tokenize", "--encode", "The cat", "--tokenizer", "book").strip()
    assert run("tokenize", "--decode", ids, "--tokenizer", "book") == "The cat"

    written = json.loads(run("generate", "--prompt", "The cat", "--seed", "1", "--json", *ENDLESS))
    assert written["prompt_tokens"] == len(ids.split())
    assert run("generate", "--prompt", "The cat", "--seed", "1", *ENDLESS) == written["text"]

    assert run("quantize", "book", "--bits", "4", "--out", "small.pt", *ENDLESS)
    small = json.loads(run("eval", "small.pt", "--json", "runtime.dtype=fp32"))
    assert small["loss"] == pytest.approx(measured["loss"], rel=0.1)

    *_, further = map(
        json.loads,
        run("train", "book.txt", "--from", "book", "--name", "further", "--json", *ENDLESS).splitlines(),
    )
    assert further["run"] == "further"
    assert further["val_loss"] < trained["val_loss"]
    assert files.load(Path("checkpoints/further/best.pt")).tokenizer == files.load(Path(trained["best"])).tokenizer

    *_, resumed = map(
        json.loads, run("train", "--resume", "--name", "book", "train.max_steps=45", "--json").splitlines()
    )
    assert (resumed["run"], resumed["step"]) == ("book", 45)
    measured = json.loads(run("eval", "further", "--json", "runtime.dtype=fp32"))
    assert measured["loss"] == pytest.approx(further["val_loss"], rel=1e-5)
