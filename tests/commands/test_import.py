"""kiara import."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Kiara = Callable[..., Any]


@pytest.fixture
def folder(kiara: Kiara, text: Path, tiny_settings: tuple[str, ...]) -> Path:
    """A Hugging Face folder."""
    settings = [word for word in tiny_settings if not word.startswith("tokenizer.")]
    assert kiara("train", str(text), *settings, "tokenizer.vocab_size=300").status == 0
    assert kiara("export", "--to", "hf", "--out", "theirs").status == 0
    return Path("theirs")


def test_every_command_reads_what_was_imported(kiara: Kiara, folder: Path) -> None:
    ran = kiara("import", str(folder), "--out", "models/mine.pt", "--json")
    assert ran.status == 0, ran.err
    made = json.loads(ran.out)
    assert (made["out"], made["model"]["n_layers"]) == ("models/mine.pt", 2)
    assert kiara("import", str(folder), "--out", "models/mine.safetensors").out == "models/mine.safetensors\n"
    written = kiara("generate", "--prompt", "the cat", "--greedy", "--max-new-tokens", "8").out
    measured = json.loads(kiara("eval", "--text", "text.txt", "--json").out)
    for name in ("mine", "models/mine.safetensors"):
        assert kiara("generate", name, "--prompt", "the cat", "--greedy", "--max-new-tokens", "8").out == written
        again = json.loads(kiara("eval", name, "--text", "text.txt", "--json").out)
        assert again["loss"] == pytest.approx(measured["loss"], rel=1e-6)
    assert kiara("chat", "mine", "chat.max_new_tokens=3", stdin="Hi\n").status == 0
    assert "imported" in kiara("eval", "mine").mistake
    further = kiara("train", "text.txt", "--from", "mine", "train.max_steps=2", "eval.sample_tokens=0", "--json")
    assert further.status == 0, further.err
    assert kiara("export", "mine", "--to", "hf", "--out", "again").status == 0
    assert Path("again/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert Path("again/tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_a_shorter_context_and_another_tokenizer_may_be_asked_for(kiara: Kiara, folder: Path) -> None:
    short = kiara("import", str(folder), "--out", "short.pt", "model.context_length=8", "--json")
    assert json.loads(short.out)["model"]["context_length"] == 8
    (folder / "tokenizer.json").unlink()
    assert "--tokenizer" in kiara("import", str(folder), "--out", "x.pt").mistake
    assert kiara("import", str(folder), "--out", "x.pt", "--tokenizer", "text").status == 0


def test_mistakes_are_one_line_and_leave_nothing_behind(
    kiara: Kiara, folder: Path, nothing_behind: Callable[[], None]
) -> None:
    nothing_behind()
    for arguments, named in {
        ("theirs", "--out", "text.txt"): ".pt",
        ("theirs", "--out", "checkpoints/best.pt"): "exists already",
        ("nowhere", "--out", "x.pt"): "no folder nowhere",
        ("data", "--out", "x.pt"): "config.json",
        ("--out", "x.pt"): "no folder to import",
        ("theirs", "--out", "x.pt", "model.context_length=9999"): "9999",
    }.items():
        assert named in kiara("import", *arguments).mistake
        nothing_behind()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}), encoding="utf-8")
    assert "bert" in kiara("import", "theirs", "--out", "x.pt").mistake
    assert not Path("x.pt").exists()
