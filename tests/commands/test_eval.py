from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.core.data.folders import open_folder

Kiara = Callable[..., Any]
KEYS = {"checkpoint", "split", "loss", "perplexity", "bits_per_byte", "accuracy", "tokens", "bytes"}


@pytest.mark.parametrize("split", ["val", "train"])
def test_json_holds_the_figures_of_a_whole_split(kiara: Kiara, trained: Path, split: str) -> None:
    ran = kiara("eval", "--split", split, "--json")
    assert ran.status == 0
    found = json.loads(ran.out)
    assert found.keys() >= KEYS
    assert found["checkpoint"] == "checkpoints/best.pt"
    assert found["split"] == split
    (folder,) = trained.glob("data/*")
    assert found["tokens"] == len(getattr(open_folder(folder), split)) - 1
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["bits_per_byte"] == pytest.approx(found["loss"] * found["tokens"] / found["bytes"] / math.log(2))
    assert 0.0 <= found["accuracy"] <= 1.0


def test_the_figures_are_those_that_training_wrote_down(kiara: Kiara, trained: Path) -> None:
    records = map(json.loads, Path("checkpoints/text/metrics.jsonl").read_text().splitlines())
    lowest = min(record["val_loss"] for record in records if "val_loss" in record)
    assert json.loads(kiara("eval", "--json").out)["loss"] == pytest.approx(lowest, rel=1e-6)


def test_another_text_can_be_measured(kiara: Kiara, trained: Path) -> None:
    Path("other.txt").write_text("the cat sat")
    found = json.loads(kiara("eval", "text", "--text", "other.txt", "--json").out)
    assert found["split"] == "other.txt"
    assert found["tokens"] == found["bytes"] == 11


@pytest.mark.parametrize(
    "word", [None, "text", "checkpoints/text", "checkpoints/text/last.pt", "checkpoints/last.pt"]
)
def test_every_way_to_name_a_checkpoint_works(kiara: Kiara, trained: Path, word: str | None) -> None:
    ran = kiara("eval", *([word] if word else []))
    assert ran.status == 0
    for name in ("loss", "perplexity", "bits per byte", "accuracy", "tokens"):
        assert name in ran.out
    assert ran.err == ""


def test_samples_are_written_on_request(kiara: Kiara, trained: Path) -> None:
    samples = json.loads(kiara("eval", "eval.sample_prompt=Once", "--samples", "2", "--json").out)["samples"]
    assert [sample["how"].split(",")[0] for sample in samples] == ["greedy", "temperature 0.8", "temperature 0.8"]
    assert all(sample["text"].startswith("Once") for sample in samples)
    assert kiara("eval", "--samples", "1").out.count("---") == 2


def test_a_setting_that_contradicts_the_checkpoint_is_refused(kiara: Kiara, trained: Path) -> None:
    line = kiara("eval", "model.n_layers=3").mistake
    assert "model.n_layers=3" in line
    assert "model.n_layers=2" in line
    assert kiara("eval", "model.n_layers=2").status == 0


def test_a_whole_data_folder_serves_although_its_source_has_grown_moved_or_gone(kiara: Kiara, trained: Path) -> None:
    whole = Path("text.txt").read_bytes()
    before = kiara("eval")
    assert "text.txt" not in before.err
    Path("text.txt").write_bytes(whole + b"more")
    grown = kiara("eval")
    assert (grown.status, grown.out) == (0, before.out)
    assert [line for line in grown.err.splitlines() if "text.txt has changed" in line and "using data/text-" in line]
    Path("text.txt").unlink()
    gone = kiara("eval")
    assert (gone.status, gone.out) == (0, before.out)
    assert len([line for line in gone.err.splitlines() if "no data at text.txt: using data/text-" in line]) == 1
    (folder,) = trained.glob("data/*")
    for file in folder.iterdir():
        file.unlink()
    assert "neither" in kiara("eval").mistake
    folder.rmdir()
    Path("text.txt").write_bytes(whole + b"more")
    assert "text.txt has changed since the checkpoint was made; restore it" in kiara("eval").mistake
    Path("text.txt").write_bytes(whole)
    assert kiara("eval").out == before.out  # made again


def test_a_text_to_measure_on_may_be_in_another_encoding_or_come_through_a_pipe(kiara: Kiara, trained: Path) -> None:
    Path("other.txt").write_bytes("the cat sat on the mat, hör auf\n".encode("latin-1") * 9)
    measured = kiara("eval", "--text", "other.txt", "--json")
    assert "warning: read as Windows-1252" in measured.err
    same = kiara("eval", "--text", "other.txt", "data.encoding=latin-1", "--json")
    assert same.err == ""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(Path("other.txt").read_bytes())
    piped = kiara("eval", "--text", f"/dev/fd/{reading}", "--json")
    os.close(reading)
    assert len({json.loads(ran.out)["loss"] for ran in (measured, same, piped)}) == 1


def test_a_truncated_data_file_is_refused(kiara: Kiara, trained: Path) -> None:
    (path,) = trained.glob("data/*/val.bin")
    path.write_bytes(path.read_bytes()[:-3])
    assert "val.bin is truncated" in kiara("eval").mistake


@pytest.mark.parametrize(("content", "reason"), [(b"", "is empty"), (b"\x00\x01" * 99, "binary file")])
def test_a_text_that_is_none_is_refused(kiara: Kiara, trained: Path, content: bytes, reason: str) -> None:
    Path("bad.txt").write_bytes(content)
    assert reason in kiara("eval", "--text", "bad.txt").mistake


@pytest.mark.parametrize("command", [["eval"], ["generate", "-p", "x"]])
@pytest.mark.parametrize("keep", [0, 1000, -100])
def test_a_truncated_checkpoint_that_was_named_is_a_mistake_with_the_last_good_one(
    kiara: Kiara, trained: Path, command: list[str], keep: int
) -> None:
    path = Path("checkpoints/text/best.pt")
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:keep])
    line = kiara(command[0], str(path), *command[1:]).mistake
    assert f"{path} is damaged" in line
    assert "the last good one is checkpoints/text/last.pt" in line


def test_a_truncated_checkpoint_that_was_only_found_is_passed_over_with_a_warning(
    kiara: Kiara, trained: Path
) -> None:
    path = Path("checkpoints/best.pt")
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:1000])
    ran = kiara("eval", "--json")
    assert ran.status == 0
    assert json.loads(ran.out)["checkpoint"] == "checkpoints/last.pt"
    assert ran.err.startswith("warning: checkpoints/best.pt is damaged")


def test_the_window_the_stride_and_the_error_stand_beside_the_figures(kiara: Kiara, trained: Path) -> None:
    plain, close = (json.loads(kiara("eval", *more, "--json").out) for more in ([], ["--stride", "4"]))
    assert (plain["window"], plain["stride"], close["stride"]) == (16, 16, 4)
    assert plain["tokens"] == close["tokens"]
    assert plain["loss"] != close["loss"]
    assert plain["loss_standard_error"] > 0
    assert plain["accuracy"] <= plain["top5_accuracy"] <= 1
    shown = kiara("eval", "eval.stride=4").out
    assert f"{close['loss']:.4f} ± {close['loss_standard_error']:.4f}" in shown
    assert "windows of 16 tokens, stride 4: each token with 13 or more before it" in " ".join(shown.split())
    assert "eval.stride=17 is more than the context of 16 tokens" in kiara("eval", "--stride", "17").mistake
    assert "eval.stride=0 is out of range" in kiara("eval", "--stride", "0").mistake


def test_details_say_where_the_loss_comes_from_and_what_the_samples_are_like(kiara: Kiara, trained: Path) -> None:
    found = json.loads(kiara("eval", "--details", "--json", "eval.sample_tokens=8", "runtime.native=false").out)
    for key in ("loss_by_position", "loss_by_frequency"):
        assert sum(group["tokens"] for group in found[key]) == found["tokens"]
        mean = sum(group["tokens"] * group["loss"] for group in found[key]) / found["tokens"]
        assert mean == pytest.approx(found["loss"])
    assert sum(one["tokens"] for one in found["calibration"]) == found["tokens"]
    assert len(found["samples"]) == 5
    (folder,) = trained.glob("data/*")
    assert found["novelty"]["scanned"] == len(open_folder(folder).train)
    assert 0 <= found["calibration_error"] <= 1
    shown = kiara("eval", "--details", "--samples", "1", "eval.sample_tokens=8", "runtime.native=false").out
    for words in ("How sure it is", "Loss by the tokens read before", "stands in the training data", "is repeated"):
        assert words in shown
    assert shown.count("---") == 2
    (folder / "train.bin").unlink()
    for file in [*folder.iterdir(), Path("text.txt")]:
        file.rename(trained / f"gone-{file.name}")
    folder.rmdir()
    Path("other.txt").write_text("the cat sat on the mat")
    alone = kiara("eval", "--details", "--text", "other.txt", "eval.sample_tokens=8", "runtime.native=false")
    assert "its training data is not there" in alone.err
    assert "Loss by the tokens read before" in alone.out
    assert "training data" not in alone.out


def test_unknown_text_is_said_and_charged(kiara: Kiara, trained: Path) -> None:
    Path("other.txt").write_text("the cat sat on ЖЖЖ\n")
    ran = kiara("eval", "--text", "other.txt", "--json")
    found = json.loads(ran.out)
    assert (found["bytes"], found["unknown_tokens"], found["unknown_bytes"]) == (22, 3, 6)
    bits = found["loss"] * found["tokens"] / math.log(2) + 8 * 6
    assert found["bits_per_byte"] == pytest.approx(bits / 22)
    assert (
        "3 tokens stand for text that this tokenizer has no id for (6 bytes)"
        in kiara("eval", "--text", "other.txt").err
    )


def test_a_text_can_come_from_stdin(kiara: Kiara, trained: Path) -> None:
    Path("other.txt").write_text("the cat sat")
    piped = json.loads(kiara("eval", "--text", "-", "--json", stdin="the cat sat").out)
    assert piped.pop("split") == "stdin"
    named = json.loads(kiara("eval", "--text", "other.txt", "--json").out)
    assert piped == {key: value for key, value in named.items() if key != "split"}
    assert "stdin is empty" in kiara("eval", "--text", "-").mistake


def test_multiple_choice_in_a_file_of_ones_own_is_answered(kiara: Kiara, trained: Path) -> None:
    lines = [{"context": "the cat sat on the", "choices": ["mat", "漢漢漢"], "answer": "mat"}] * 3
    Path("q.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found = json.loads(kiara("eval", "--tasks", "q.jsonl", "--limit", "2", "--json").out)
    assert (found["task"], found["questions"], found["chance"]) == ("q.jsonl", 2, 0.5)
    assert found["accuracy"] in (0.0, 1.0)
    assert "accuracy per byte" in kiara("eval", "--tasks", "q.jsonl,q.jsonl").out
    Path("bad.jsonl").write_text("\n".join(map(json.dumps, [lines[0], {"choices": ["a", "b"]}])))
    assert "--tasks and --text; leave --text out" in kiara("eval", "--tasks", "q.jsonl", "--text", "x").mistake
    assert "--limit without --tasks; say which" in kiara("eval", "--limit", "3").mistake
    assert "--talks without --chat; say which: --chat" in kiara("eval", "--talks", "3").mistake
    assert "--chat and --details; leave --details out" in kiara("eval", "--chat", "--details").mistake
    assert "no small world here; say which world it is to be scored in" in kiara("eval", "--chat").mistake
    assert "none.yaml is no small world here" in kiara("eval", "--chat", "--world", "none.yaml").mistake
    assert "bad.jsonl, line 2 has no 'context'" in kiara("eval", "none-such", "--tasks", "bad.jsonl").mistake


def test_a_task_of_the_harness_without_the_extra_names_it(
    kiara: Kiara, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "lm-eval, which is not installed; pip install 'kiara-slm[eval]'" in kiara("eval", "--tasks", "arc").mistake


def test_the_lines_of_the_documentation_run(kiara: Kiara, trained: Path) -> None:
    docs = Path(__file__).parents[2] / "docs"
    Path("docs").symlink_to(docs)
    Path("mybook.txt").write_text("the cat sat on the mat\n" * 9)
    text = (docs / "evaluation.md").read_text(encoding="utf-8")
    lines = [line.split("  #")[0].split() for line in re.findall(r"^kiara eval.*$", text, flags=re.MULTILINE)]
    assert len(lines) == 11
    world = ("--world", "docs/examples/shop.yaml", "--talks", "1", "--seeds", "1", "chat.max_new_tokens=2")
    for _, *words in lines:
        if any(word.endswith(".yaml") for word in words):
            continue  # with the harness: tests/core/serve/test_harness.py
        if "--chat" in words and "--show-wrong" not in words:
            continue  # one of them is enough
        more = world if "--chat" in words else ("eval.sample_tokens=2",)
        ran = kiara(*(word.replace("64", "8") for word in words), *more, "runtime.native=false")
        assert ran.status == 0, ran.err
    program = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0].replace("64", "8")
    exec(compile(program, "evaluation.md", "exec"), {})
