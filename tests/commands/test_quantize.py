from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kiara_cli.core.checkpoint import files

Kiara = Callable[..., Any]


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate on fewer tokens than by default: enough for a tiny model."""
    monkeypatch.setenv("KIARA__QUANTIZE__CALIBRATION_TOKENS", "4096")


@pytest.fixture
def small(kiara: Kiara, trained: Path) -> Path:
    """A checkpoint of 4 bits in a folder with its full one."""
    assert kiara("quantize", "--bits", "4", "--out", "small.pt", "--json").status == 0
    return Path("small.pt")


@pytest.mark.parametrize(("bits", "method"), [("8", "rtn"), ("8", "gptq"), ("4", "rtn"), ("4", "gptq")])
def test_the_report_says_what_was_lost_and_gained(kiara: Kiara, trained: Path, bits: str, method: str) -> None:
    ran = kiara("quantize", "--bits", bits, "--method", method, "--out", "small.pt", "--json")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert (found["bits"], found["method"], found["group_size"]) == (int(bits), method, 32)
    assert found["after"]["file_bytes"] == Path("small.pt").stat().st_size
    assert found["after"]["weight_bytes"] < found["before"]["weight_bytes"] / (3 if bits == "8" else 5)
    assert found["before"]["tokens_per_second"] > 0
    assert found["after"]["tokens_per_second"] > 0
    assert found["change"] == pytest.approx(
        found["after"]["bits_per_byte"] / found["before"]["bits_per_byte"] - 1, abs=1e-9
    )
    assert len(found["layers"]) == 10
    assert all(layer["error"] <= layer["nearest_error"] * 1.0001 for layer in found["layers"])
    measured = json.loads(kiara("eval", "small.pt", "--json").out)
    assert measured["loss"] == pytest.approx(found["after"]["loss"], rel=1e-5)


def test_a_person_sees_a_bar_for_every_matrix_and_what_changed(kiara: Kiara, trained: Path) -> None:
    ran = kiara("quantize", "text", "--bits", "4", "--group-size", "16", "--out", "small.safetensors")
    assert ran.status == 0, ran.err
    bars = [line for line in ran.out.splitlines() if line.startswith(("blocks.", "tokens", "head"))]
    assert len(bars) == 10
    assert all("█" in line and line.endswith("%") for line in bars)
    for word in ("file", "bits per byte", "loss", "tokens/s", "weights per token"):
        assert word in ran.out
    assert "kiara generate small.safetensors" in ran.err


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_every_command_reads_a_small_checkpoint(kiara: Kiara, trained: Path, suffix: str) -> None:
    out = f"small{suffix}"
    assert kiara("quantize", "--bits", "4", "--out", out, "--json").status == 0
    assert kiara("eval", out, "--json").status == 0
    assert json.loads(kiara("generate", out, "-p", "the cat", "--greedy", "--json").out)["completion_tokens"] > 0
    assert kiara("chat", out, stdin="hello\n").status == 0
    assert kiara("export", out, "--to", "safetensors", "--out", "again.safetensors").status == 0
    again, first = (files.load(Path(name)) for name in ("again.safetensors", out))
    assert again.quantize == first.quantize
    assert all(torch.equal(again.model[name], tensor) for name, tensor in first.model.items())
    assert kiara("tokenize", "--encode", "cat", "--tokenizer", out).status == 0


def test_an_export_of_a_small_checkpoint_holds_its_full_matrices(kiara: Kiara, small: Path) -> None:
    pytest.importorskip("transformers")
    ran = kiara("export", str(small), "--to", "hf", "--out", "folder")
    assert ran.status == 0, ran.err
    assert kiara("import", "folder", "--out", "full.pt", "--tokenizer", str(small)).status == 0
    full, written = (json.loads(kiara("eval", name, "--text", "text.txt", "--json").out) for name in
                     ("full.pt", str(small)))  # fmt: skip
    assert full["loss"] == pytest.approx(written["loss"], rel=1e-4)


def test_what_is_stored_are_codes_scales_and_the_scheme(small: Path) -> None:
    stored = files.load(small)
    assert stored.quantize is not None
    assert stored.quantize["bits"] == 4
    assert stored.optimizer is None
    for name in ("tokens", "blocks.0.attention.qkv", "head"):
        assert stored.model[f"{name}.codes"].dtype == torch.uint8
        assert stored.model[f"{name}.scales"].dtype == torch.bfloat16
        assert f"{name}.weight" not in stored.model


def test_training_refuses_it_with_a_reason(kiara: Kiara, small: Path, nothing_behind: Callable[[], None]) -> None:
    nothing_behind()
    line = kiara("train", "text.txt", "--from", str(small)).late_mistake
    assert "4 bits, too coarse to be trained" in line
    nothing_behind()


def test_it_is_not_made_smaller_a_second_time(kiara: Kiara, small: Path) -> None:
    line = kiara("quantize", str(small), "--bits", "8", "--out", "again.pt").mistake
    assert "small.pt has 4 bits a weight already; quantize the checkpoint that it was made from" in line
    assert not Path("again.pt").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--bits", "4", "--group-size", "24"], "24 do not divide the 32 columns of tokens; give --group-size 8"),
        (["--bits", "4", "--group-size", "1"], "group"),
        (["--bits", "3"], "bits"),
        (["--bits", "4", "--method", "awq"], "method"),
        (["--bits", "4", "quantize.head_bits=5"], "quantize.head_bits=5 is no choice; choose one of: 4, 8, 16, null"),
        (["--bits", "4", "--text", "missing.txt"], "missing.txt"),
    ],
)  # fmt: skip
def test_wrong_settings_are_a_line_and_leave_nothing(
    kiara: Kiara, trained: Path, nothing_behind: Callable[[], None], words: list[str], reason: str
) -> None:
    nothing_behind()
    assert reason in kiara("quantize", *words, "--out", "small.pt").late_mistake
    nothing_behind()


def test_an_output_that_exists_or_has_no_suffix_is_refused(kiara: Kiara, trained: Path) -> None:
    assert "exists already" in kiara("quantize", "--bits", "8", "--out", "checkpoints/best.pt").mistake
    assert "does not end in .pt or .safetensors" in kiara("quantize", "--bits", "8", "--out", "small").mistake


def test_without_the_runs_data_only_gptq_fails_and_another_text_helps(kiara: Kiara, trained: Path) -> None:
    for folder in trained.glob("data/*"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    Path("text.txt").rename("other.txt")
    line = kiara("quantize", "--bits", "8", "--out", "a.pt").late_mistake
    assert "there is nothing to calibrate on" in line
    assert "give --text FILE, or use --method rtn" in line
    ran = kiara("quantize", "--bits", "8", "--method", "rtn", "--out", "b.pt", "--json")
    assert ran.status == 0
    assert json.loads(ran.out)["change"] is None
    ran = kiara("quantize", "--bits", "8", "--text", "other.txt", "--out", "c.pt", "--json")
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["change"] is not None


def test_weights_that_are_no_numbers_are_refused(kiara: Kiara, trained: Path) -> None:
    path = Path("checkpoints/text/best.pt")
    good = files.load(path)
    good.model["head.weight"][0, 0] = torch.nan
    files.save(good, Path("bad.pt"))
    line = kiara("quantize", "bad.pt", "--bits", "4", "--out", "small.pt").mistake
    assert "head.weight holds values that are not finite numbers" in line
    assert not Path("small.pt").exists()


def test_a_file_packed_for_one_kind_of_processor_is_refused(kiara: Kiara, small: Path) -> None:
    import dataclasses

    stored = files.load(small)
    assert stored.quantize is not None
    files.save(dataclasses.replace(stored, quantize=dict(stored.quantize) | {"layout": "avx512"}), Path("odd.pt"))
    line = kiara("generate", "odd.pt", "-p", "x").mistake
    assert "odd.pt stores its numbers in a way that this Kiara does not read" in line


@pytest.mark.parametrize("part", ["codes", "scales"])
def test_a_damaged_small_checkpoint_is_noticed(kiara: Kiara, small: Path, part: str) -> None:
    whole, tensor = bytearray(small.read_bytes()), files.load(small).model[f"blocks.1.feedforward.down.{part}"]
    whole[whole.index(tensor.view(torch.uint8).numpy().tobytes())] ^= 0xFF  # between tensors lies padding
    small.write_bytes(whole)
    assert "damaged" in kiara("eval", str(small)).mistake
