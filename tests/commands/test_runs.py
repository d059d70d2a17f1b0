from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Kiara = Callable[..., Any]
Check = Callable[[], None]


def facts(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"checkpoints/{name}/run.json").read_text())
    return found


def losses(name: str) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in Path(f"checkpoints/{name}/metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["val_loss"]) for row in rows if "val_loss" in row]


def test_a_trained_run_is_listed_shown_and_drawn_with_what_it_reached_and_cost(kiara: Kiara, trained: Path) -> None:
    known = facts("text")
    assert known["training_flops"] == known["flops_per_token"] * 256
    assert known["seconds"] > 0
    assert known["peak_memory_bytes"] > 1_000_000
    assert known["best"]["val_loss"] == known["val_loss"] == min(loss for _, loss in losses("text"))
    listed = kiara("runs", "list")
    head, line = listed.out.splitlines()
    assert head.split()[:3] == ["run", "status", "data"]
    assert line.startswith("text  finished  text")
    assert f"{known['val_loss']:.4f}" in line
    (record,) = map(json.loads, kiara("runs", "list", "--json").out.splitlines())
    assert (record["name"], record["step"], record["tokens"], record["seed"]) == ("text", 4, 256, 1337)
    shown = kiara("runs", "show", "text")
    assert shown.status == 0
    for words in ("validation loss", "bits per byte", "256", "step_0000004.pt", "tokenizer.kind", "(default bpe)",
                  "loss (nats per token) over steps"):  # fmt: skip
        assert words in shown.out, words
    assert "kiara train --baseline text" in shown.err
    assert (
        json.loads(kiara("runs", "show", "checkpoints/text", "--json").out)["results_hash"] == known["results_hash"]
    )
    drawn = kiara("runs", "plot", "text", "--y", "val_loss", "--x", "flops")
    assert "validation loss (nats per token) over FLOPs" in drawn.out
    grouped = kiara("runs", "list", "--group", "--json").out
    assert json.loads(grouped)["val_loss"] == {"n": 1, "mean": known["val_loss"], "sd": None,
                                               "low": known["val_loss"], "high": known["val_loss"]}  # fmt: skip


def test_settings_without_effect_change_neither_the_hash_nor_one_bit_of_the_results(
    kiara: Kiara, trained: Path, tiny_settings: tuple[str, ...]
) -> None:
    words = ["train.log_interval=3", "train.checkpoint_interval=3", "train.keep_last=5",
             "train.save_safetensors=true", "eval.sample_tokens=0", "eval.sample_prompt=a", "logging.level=error",
             "generate.temperature=0.1", "generate.seed=5", "chat.system=x", "data.name=other",
             "train.max_epochs=99"]  # fmt: skip
    train = ("train", "text.txt", *tiny_settings, "model.drop_rate=0.2")  # so that the random state matters
    assert kiara(*train, "--name", "base").status == 0
    assert kiara(*train, *words, "--baseline", "base").status == 0
    assert losses("other") == losses("base")
    assert facts("other")["results_hash"] == facts("base")["results_hash"] != facts("text")["results_hash"]
    assert facts("other")["config_hash"] != facts("base")["config_hash"]
    assert facts("other")["change"] == {"name": "a repeat", "keys": []}
    assert "other repeats base, with the same seed." in kiara("runs", "compare", "base", "other").err


def test_a_run_is_held_to_its_baseline(
    kiara: Kiara, trained: Path, tiny_settings: tuple[str, ...], nothing_behind: Check
) -> None:
    held = ("train", "text.txt", *tiny_settings, "--baseline", "text")
    nothing_behind()
    refused = kiara(*held, "train.lr=0.1", "model.n_layers=1").late_mistake
    assert "error: 2 settings differ from text: model.n_layers=1 (there 2), train.lr=0.1 (there 0.012); " in refused
    assert refused.endswith("--change NAME=model.n_layers,train.lr")
    refused = kiara(*held, "data.val_fraction=0.3").late_mistake  # and the data made for it is not kept
    assert "this run cannot be compared with text: another split: data.val_fraction=0.3 (there 0.1); leave" in refused
    assert "another evaluation: eval.max_tokens=40" in kiara(*held, "eval.max_tokens=40").late_mistake
    assert "did you mean text?" in kiara("train", "text.txt", "--baseline", "texd").mistake
    assert "goes with --baseline" in kiara("train", "text.txt", "--change", "a=b").mistake
    assert "keeps its own" in kiara("train", "--resume", "--baseline", "text").mistake
    nothing_behind()
    assert kiara(*held, "train.lr=0.1", "--dry-run").status == 0
    nothing_behind()
    ran = kiara(*held, "train.lr=0.1", "model.n_layers=1", "--change", "small=train.lr,model", "--name", "small")
    assert ran.status == 0, ran.err
    assert "Compared with text (small): validation loss" in ran.err
    assert "One run each says little" in ran.err
    assert facts("small")["baseline"] == {"run": "text", "results_hash": facts("text")["results_hash"]}
    assert facts("small")["change"] == {"name": "small", "keys": ["model.n_layers", "train.lr"]}
    assert "Compared with text (small)" in kiara("runs", "show", "small").out


def test_another_tokenizer_is_compared_in_bits_per_byte_and_a_resumed_run_follows(
    kiara: Kiara, trained: Path, tiny_settings: tuple[str, ...]
) -> None:
    ran = kiara("train", "text.txt", *tiny_settings, "tokenizer.kind=word", "--baseline", "text", "--name", "word")
    assert ran.status == 0, ran.err
    assert "Compared with text (tokenizer): bits per byte" in ran.err
    assert "only bits per byte can be compared" in kiara("runs", "compare", "text", "word").err
    before = facts("word")["results_hash"]
    assert kiara("train", "--resume", "--name", "word", "train.max_steps=6").status == 0
    after = facts("word")
    assert after["results_hash"] != before
    assert after["resumed_with_changes"] == [{"step": 4, "changed": ["steps"]}]
    assert after["step"] == 6
    assert "at step 4 with other steps" in kiara("runs", "show", "word").out


def test_runs_are_removed_when_it_is_meant(kiara: Kiara, trained: Path, nothing_behind: Check) -> None:
    nothing_behind()
    asked = kiara("runs", "remove", "text")
    assert "checkpoints/text: 8 files, all of the run" in asked.err
    assert "checkpoints/best.pt stays" in asked.err
    assert "say --yes" in asked.late_mistake
    nothing_behind()
    assert kiara("runs", "remove", "text", "--checkpoints-only", "--yes").status == 0
    assert "No records" not in kiara("runs", "show", "text").out
    assert kiara("runs", "remove", "text", "--yes").status == 0
    assert not Path("checkpoints/text").exists()
    assert Path("checkpoints/best.pt").is_file()
    assert kiara("runs", "list").err == "No such run in checkpoints.\n"


@pytest.mark.parametrize(("words", "said"), [
    (("show", "texd"), "no run texd in checkpoints; did you mean text?"),
    (("compare", "text"), "one run alone cannot be compared; name two or more"),
    (("compare", "text", "zzz"), "no run zzz in checkpoints; there is: text"),
    (("plot", "text", "--y", "nothing"), "run text has no records of nothing; it has: "),
    (("remove", "text", "..", "--yes"), "no run .. in checkpoints; "),
    (("list", "--runs", "text.txt"), "text.txt is a file, not the folder of runs; "),
    (("list", "--sort", "colour"), "see: kiara runs list --help"),
    (("lst",), "see: kiara runs --help"),
    ((), "missing command; see: kiara runs --help"),
])  # fmt: skip
def test_what_is_asked_wrongly_is_one_line(
    kiara: Kiara, trained: Path, nothing_behind: Check, words: tuple[str, ...], said: str
) -> None:
    nothing_behind()
    assert said in kiara("runs", *words).mistake
    nothing_behind()


def test_pictures_are_written_or_the_extra_is_named(
    kiara: Kiara, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = kiara("runs", "plot", "text", "--png", "a.png", "--html", "a.html", "--smooth", "0.5", "--log-x")
    assert (ran.status, ran.out, ran.err) == (0, "", "Written: a.png, a.html\n")
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in Path("a.html").read_text()
    for option in ("--png", "--html"):
        assert "cannot write text.txt/a: " in kiara("runs", "plot", "text", option, "text.txt/a").mistake
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert "pip install 'kiara-slm[lab]'" in kiara("runs", "plot", "text", "--png", "b.png").mistake
    assert kiara("runs", "plot", "text").status == 0


def test_what_is_damaged_is_shown_as_damaged(kiara: Kiara, trained: Path) -> None:
    with Path("checkpoints/text/metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo\n')
    Path("checkpoints/text/config.yaml").write_text("model: {n_layers: many}")
    shown = kiara("runs", "show", "text")
    assert shown.status == 0
    assert "1 line of metrics.jsonl is not readable" in shown.out
    assert "config.yaml: model.n_layers=many" in shown.err
    Path("checkpoints/text/run.json").write_text("{")
    odd = Path("checkpoints/odd\x1b[31m\nname")
    odd.mkdir()
    (odd / "run.json").write_text("[]")
    listed = kiara("runs", "list")
    assert [line.split()[1] for line in listed.out.splitlines()[1:]] == ["damaged", "damaged"]
    assert kiara("runs", "show", "text").status == 0
    assert "text/run.json is not readable" in kiara("runs", "compare", "text", "text").mistake
