"""kiara export."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from kiara_cli.core.checkpoint import files

Kiara = Callable[..., Any]
BPE = ("tokenizer.kind=bpe", "tokenizer.vocab_size=300")


@pytest.fixture
def bpe_trained(kiara: Kiara, text: Path, tiny_settings: tuple[str, ...]) -> Path:
    """A tiny model with a byte-level BPE, whose options are the default's."""
    settings = [word for word in tiny_settings if not word.startswith("tokenizer.")]
    assert kiara("train", str(text), *settings, *BPE, "data.shard_tokens=100").status == 0
    return Path()


def test_the_default_model_goes_to_both_and_both_agree_with_kiara(kiara: Kiara, bpe_trained: Path) -> None:
    for to, out, judge in (("hf", "model", "transformers"), ("gguf", "model.gguf", "llama.cpp")):
        ran = kiara("export", "--to", to, "--out", out, "--check", "--json")
        assert ran.status == 0, ran.err
        found = json.loads(ran.out)
        assert (found["out"], found["quant"], found["check"]["judge"]) == (out, "f32", judge)
        assert found["check"]["passed"]
        assert found["check"]["steps"] >= 8
    assert type(transformers.AutoModelForCausalLM.from_pretrained("model")).__name__ == "Qwen3ForCausalLM"
    held_out = kiara("export", "--to", "gguf", "--quant", "q8_0", "--out", "8.gguf", "--check", "--text", "text.txt")
    assert held_out.status == 0, held_out.err
    assert held_out.out == "8.gguf\n"
    assert "bits per byte" in held_out.err
    assert "llama-cli -m 8.gguf" in held_out.err
    assert "ollama create 8 -f 8.Modelfile && ollama run 8" in held_out.err
    assert Path("8.Modelfile").read_text().startswith("FROM ./8.gguf\nTEMPLATE ")
    assert Path("Modelfile").read_text().startswith("FROM ./model.gguf\n")
    assert Path("8.gguf").stat().st_size < Path("model.gguf").stat().st_size


def test_one_file_and_the_tokenizer_alone(kiara: Kiara, bpe_trained: Path) -> None:
    assert kiara("export", "--to", "safetensors", "--out", "m.safetensors").out == "m.safetensors\n"
    same = kiara("generate", "m.safetensors", "--prompt", "the", "--greedy", "--max-new-tokens", "5").out
    assert same == kiara("generate", "--prompt", "the", "--greedy", "--max-new-tokens", "5").out
    assert kiara("export", "text", "--to", "tokenizer", "--out", "spoken").status == 0
    names = {path.name for path in Path("spoken").iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"}
    ids = kiara("tokenize", "--encode", "the cat").out.split()
    theirs = transformers.AutoTokenizer.from_pretrained("spoken")
    assert theirs("the cat").input_ids == list(map(int, ids))


def test_tokenize_writes_the_tokenizer_for_others_if_asked(kiara: Kiara, text: Path) -> None:
    assert kiara("tokenize", str(text), *BPE, "--export", "spoken").status == 0
    assert (Path("spoken") / "merges.txt").is_file()
    assert "exists already" in kiara("tokenize", str(text), *BPE, "--export", "spoken").mistake


def test_a_tokenizer_that_others_cannot_read_is_refused_before_any_work(kiara: Kiara, text: Path) -> None:
    refused = kiara("tokenize", str(text), "tokenizer.kind=word", "--export", "spoken").mistake
    assert "cannot express tokenizer.kind=word; train with tokenizer.kind=bpe" in refused
    assert "does a share of the work" in kiara("tokenize", str(text), "--shard", "0/2", "--export", "spoken").mistake
    assert not Path("data").exists()
    assert not Path("spoken").exists()


def test_mistakes_are_one_line_and_leave_nothing_behind(
    kiara: Kiara, trained: Path, nothing_behind: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_behind()
    for arguments, named in {
        ("--to", "gguf", "--out", "x.gguf"): "GGUF cannot express tokenizer.kind=char",
        ("--to", "hf", "--out", "text.txt"): "text.txt exists already",
        ("--to", "hf", "--out", "data"): "data exists already",
        ("--to", "hf", "--out", "x", "--quant", "q8_0"): "--quant q8_0 is of GGUF",
        ("--to", "safetensors", "--out", "x.pt"): "safetensors",
        ("--to", "tokenizer", "--out", "x", "--check"): "--check",
        ("--to", "onnx", "--out", "x"): "onnx",
        ("--to", "hf"): "--out",
        ("nowhere", "--to", "hf", "--out", "x"): "no checkpoint nowhere",
        ("--to", "hf", "--out", "x", "--check", "--text", "nowhere.txt"): "nowhere.txt",
    }.items():
        assert named in kiara("export", *arguments).late_mistake
        nothing_behind()
    monkeypatch.setitem(sys.modules, "transformers", None)
    lacking = kiara("export", "--to", "hf", "--out", "x", "--check").late_mistake
    assert "transformers" in lacking
    assert "kiara-slm[export]" in lacking
    nothing_behind()


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(
    kiara: Kiara, trained: Path, nothing_behind: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kiara_cli.core.export import huggingface

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "x/model.safetensors")

    nothing_behind()
    monkeypatch.setattr(huggingface, "save_file", full)
    assert "No space left" in kiara("export", "--to", "hf", "--out", "x").mistake
    nothing_behind()


def test_an_export_that_fails_its_check_is_not_kept(
    kiara: Kiara, bpe_trained: Path, nothing_behind: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kiara_cli.core.export import check

    nothing_behind()
    monkeypatch.setitem(check.TOLERANCES, "f32", 0.0)
    ran = kiara("export", "--to", "gguf", "--out", "x.gguf", "--check")
    assert (ran.status, ran.out) == (1, "")
    assert "not the same model" in ran.err
    nothing_behind()


def test_an_older_optimizer_state_does_not_travel(kiara: Kiara, trained: Path) -> None:
    assert kiara("export", "checkpoints/last.pt", "--to", "safetensors", "--out", "m.safetensors").status == 0
    assert files.load(Path("m.safetensors")).optimizer is None
