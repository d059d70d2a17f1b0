from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import files

Kiara = Callable[..., Any]
Check = Callable[[], None]


def test_json_is_one_object_per_record_and_the_result_at_last(
    kiara: Kiara, text: Path, tiny_settings: tuple[str, ...]
) -> None:
    ran = kiara("train", str(text), *tiny_settings, "--json")
    assert ran.status == 0
    *records, result = map(json.loads, ran.out.splitlines())
    assert [record["step"] for record in records if "loss" in record] == [1, 2, 3, 4]
    assert [record["step"] for record in records if "val_loss" in record] == [2, 4]
    assert all({"step", "loss", "lr", "tokens_per_second"} <= record.keys() for record in records if "loss" in record)
    assert records == [json.loads(line) for line in Path("checkpoints/text/metrics.jsonl").read_text().splitlines()]
    assert {"run", "status", "step", "val_loss", "tokens", "seconds", "best", "last"} <= result.keys()
    assert (result["run"], result["status"], result["step"], result["tokens"]) == ("text", "finished", 4, 256)
    assert result["best"] == "checkpoints/text/best.pt"
    assert result["last"] == "checkpoints/text/last.pt"


def test_a_run_leaves_the_files_that_are_promised(kiara: Kiara, text: Path, tiny_settings: tuple[str, ...]) -> None:
    ran = kiara("train", str(text), *tiny_settings)
    assert ran.status == 0
    assert ran.out == ""
    names = {str(path.relative_to("checkpoints")) for path in Path("checkpoints").rglob("*") if path.is_file()}
    run = {"config.yaml", "run.json", "metrics.jsonl", "kiara.log", "best.pt", "last.pt"}
    run |= {"step_0000002.pt", "step_0000004.pt"}
    assert names == {"best.pt", "last.pt", *(f"text/{name}" for name in run)}
    facts = json.loads(Path("checkpoints/text/run.json").read_text())
    assert facts["status"] == "finished"
    assert {"seed", "versions", "machine", "data_hash", "tokenizer_hash", "git_commit"} <= facts.keys()
    assert Path("checkpoints/last.pt").read_bytes() == Path("checkpoints/text/last.pt").read_bytes()


def test_what_happens_is_said_on_stderr_without_colours_or_cursor_codes(
    kiara: Kiara, text: Path, tiny_settings: tuple[str, ...]
) -> None:
    err = kiara("train", str(text), *tiny_settings, "eval.sample_prompt=the dog").err
    for word in ("The plan", "step 1/4  loss", "step 4/4  validation loss", "(best so far)", "sample:"):
        assert word in err
    assert "kiara generate checkpoints/text/best.pt --prompt 'the dog'" in err
    assert "\x1b" not in err


def test_a_second_run_gets_a_number_and_the_first_stays(
    kiara: Kiara, trained: Path, tiny_settings: tuple[str, ...]
) -> None:
    before = Path("checkpoints/text/best.pt").read_bytes()
    assert kiara("train", "text.txt", *tiny_settings, "runtime.seed=2").status == 0
    assert Path("checkpoints/text/best.pt").read_bytes() == before
    assert Path("checkpoints/text-2/best.pt").read_bytes() == Path("checkpoints/best.pt").read_bytes()
    assert kiara("train", "text.txt", *tiny_settings, "--name", "mine").status == 0
    assert Path("checkpoints/mine/best.pt").is_file()


@pytest.mark.parametrize("name", [".", "..", "../out", "a/b", "/tmp/x", "-x", "a b", "a\nb"])
def test_a_name_that_is_no_plain_word_is_a_mistake(
    kiara: Kiara, trained: Path, tiny_settings: tuple[str, ...], nothing_behind: Check, name: str
) -> None:
    nothing_behind()
    assert "--name" in kiara("train", "text.txt", *tiny_settings, f"--name={name}").late_mistake
    nothing_behind()


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    kiara: Kiara, text: Path, tiny_settings: tuple[str, ...], nothing_behind: Check
) -> None:
    nothing_behind()
    ran = kiara("train", str(text), *tiny_settings, "--dry-run", "--json")
    assert ran.status == 0
    plan = json.loads(ran.out)
    assert plan["steps"] == 4
    assert plan["tokens"] == 256
    assert "nothing was written" in kiara("train", str(text), *tiny_settings, "--dry-run").out
    nothing_behind()


def test_a_default_number_of_steps_does_not_cap_the_epochs_that_were_asked_for(
    kiara: Kiara, text: Path, tiny_settings: tuple[str, ...]
) -> None:
    words = [word for word in tiny_settings if not word.startswith("train.max_steps")]
    plan = json.loads(kiara("train", str(text), *words, "train.max_epochs=100", "--dry-run", "--json").out)
    assert (round(plan["epochs"]), plan["limit"]) == (100, "train.max_epochs")
    ran = kiara("train", str(text), *words, "train.max_epochs=100", "train.max_steps=3", "--dry-run")
    assert "train.max_steps=3, before train.max_epochs=100" in ran.out


def test_a_run_limited_by_epochs_is_resumed_for_more_of_them(
    kiara: Kiara, text: Path, tiny_settings: tuple[str, ...]
) -> None:
    words = [word for word in tiny_settings if not word.startswith("train.max_steps")]
    done = json.loads(kiara("train", str(text), *words, "train.max_epochs=0.1", "--json").out.splitlines()[-1])
    ran = kiara("train", "--resume", "train.max_epochs=0.2", "--json")
    assert ran.status == 0, ran.err
    assert "(train.max_epochs=0.2)" in ran.err
    assert done["step"] < json.loads(ran.out.splitlines()[-1])["step"] <= 2 * done["step"]
    assert kiara("train", "--resume", "train.max_epochs=0.1").mistake.startswith(
        "error: train.max_epochs=0.1: the run was planned for"
    )


def test_lines_that_cannot_be_read_are_left_out_as_the_message_says(
    kiara: Kiara, tiny_settings: tuple[str, ...]
) -> None:
    Path("lines.jsonl").write_text(
        "".join(f'{{"text": "{number} cats sat on the mat"}}\n' for number in range(60)) + "no\n"
    )
    line = kiara("train", "lines.jsonl", *tiny_settings).late_mistake
    assert "lines.jsonl, line 61" in line
    assert "--skip-bad" in line
    ran = kiara("train", "lines.jsonl", *tiny_settings, "--skip-bad")
    assert ran.status == 0, ran.err
    assert "Left out 1 lines" in ran.err


def test_resuming_a_finished_run_with_more_steps_goes_on(kiara: Kiara, trained: Path) -> None:
    ran = kiara("train", "--resume", "train.max_steps=6", "--json")
    assert ran.status == 0
    assert "Resuming text at step 4 of 6" in ran.err
    records = [json.loads(line) for line in Path("checkpoints/text/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "loss" in record] == [1, 2, 3, 4, 5, 6]
    assert json.loads(ran.out.splitlines()[-1])["step"] == 6


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["model.n_layers=3"], "the run to resume has model.n_layers=2"),
        (["train.lr=0.1"], f"the run to resume has train.lr={Config().train.lr}"),
        (["train.max_steps=2"], "error: train.max_steps=2: the run was planned for 4 steps and has made 4"),
        (["--name", "other"], "runs that can be resumed: text"),
        (["--from", "text"], "--resume continues a run"),
    ],
)
def test_what_cannot_change_on_resuming_is_a_mistake(
    kiara: Kiara, trained: Path, nothing_behind: Check, words: list[str], reason: str
) -> None:
    nothing_behind()
    assert reason in kiara("train", "--resume", *words).mistake
    nothing_behind()


def test_settings_that_training_does_not_read_may_change_on_resuming(kiara: Kiara, trained: Path) -> None:
    others = ("serve.port=9000", "chat.max_new_tokens=50", "quantize.calibration_tokens=4096")
    assert kiara("train", "--resume", "train.max_steps=5", *others).status == 0


def test_resuming_goes_on_with_the_data_as_it_was_though_its_source_has_changed(kiara: Kiara, trained: Path) -> None:
    Path("text.txt").write_text("something else altogether\n" * 100)
    ran = kiara("train", "--resume", "train.max_steps=5")
    assert ran.status == 0
    assert "warning: text.txt has changed" in ran.err
    assert "data_changed_at_step" not in json.loads(Path("checkpoints/text/run.json").read_text())
    shutil.rmtree("data")
    line = kiara("train", "--resume", "train.max_steps=6").mistake
    assert "text.txt has changed since the checkpoint was made" in line
    assert "--allow-changed-data" in line


def test_training_on_the_working_folder_and_the_commands_it_suggests(
    kiara: Kiara, text: Path, tiny_settings: tuple[str, ...]
) -> None:
    Path(".git").mkdir()
    Path(".git/x.txt").write_text("hidden")
    ran = kiara("train", ".", *tiny_settings)
    assert ran.status == 0
    assert "Left out, as they are hidden: ./.git." in ran.err
    best = str(next(Path("checkpoints").glob("*/best.pt")))
    for words in (["eval", best], ["generate", best, "--prompt", "the"], ["train", "--resume", "train.max_steps=5"]):
        again = kiara(*words)
        assert again.status == 0
        assert "has changed" not in again.err
    assert "made before of the same data" in kiara("train", ".", *tiny_settings).err


def test_resuming_passes_over_a_damaged_last_with_a_warning(kiara: Kiara, trained: Path) -> None:
    for name in ("last.pt", "step_0000004.pt"):
        path = Path("checkpoints/text") / name
        path.write_bytes(path.read_bytes()[:500])
    ran = kiara("train", "--resume")
    assert ran.status == 0
    assert "warning: checkpoints/text/last.pt is damaged" in ran.err
    assert "Resuming text at step 2 of 4" in ran.err
    for path in Path("checkpoints/text").glob("*.pt"):
        files.load(path)


def test_a_run_from_a_checkpoint_takes_its_tokenizer_and_model(
    kiara: Kiara, trained: Path, tiny_settings: tuple[str, ...]
) -> None:
    Path("other.txt").write_text("the dog sat on the cat\n" * 60)
    train_only = [word for word in tiny_settings if word.startswith(("train.", "eval."))]
    ran = kiara("train", "other.txt", "--from", "text", *train_only)
    assert ran.status == 0
    old, new = files.load(Path("checkpoints/text/best.pt")), files.load(Path("checkpoints/other/best.pt"))
    assert new.tokenizer == old.tokenizer
    assert new.config["model"] == old.config["model"]
    assert json.loads(Path("checkpoints/other/run.json").read_text())["from"] == "checkpoints/text/best.pt"
    assert "model.n_layers=2" in kiara("train", "other.txt", "--from", "text", "model.n_layers=5").mistake
    dry = json.loads(kiara("train", "other.txt", "--from", "text", *train_only, "--dry-run", "--json").out)
    assert (dry["n_layers"], dry["vocab_size"]) == (2, old.make_tokenizer().size)


def test_a_file_shorter_than_the_context_is_a_mistake(kiara: Kiara) -> None:
    Path("short.txt").write_text("Once upon a time.")
    line = kiara("train", "short.txt").late_mistake
    assert line.startswith("error: short.txt: the training split has ")
    assert f"model.context_length={Config().model.context_length}" in line
    assert "use a longer text" in line
    assert not Path("checkpoints").exists()
    assert not list(Path().rglob("*partial*"))
    assert all(path.name[0] != "." for path in Path("data").glob("*"))


def test_a_file_where_the_checkpoints_folder_should_be_is_a_mistake(
    kiara: Kiara, text: Path, tiny_settings: tuple[str, ...]
) -> None:
    Path("checkpoints").write_text("in the way")
    assert "checkpoints" in kiara("train", str(text), *tiny_settings).late_mistake
    assert Path("checkpoints").read_text() == "in the way"


def test_nothing_touches_the_network(
    kiara: Kiara, text: Path, tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert kiara("train", str(text), *tiny_settings).status == 0
    assert kiara("eval").status == 0
    assert kiara("generate", "-p", "the", "--max-new-tokens", "5").status == 0


def test_changed_data_may_be_allowed_on_resuming(kiara: Kiara, trained: Path) -> None:
    Path("text.txt").write_text("the mat sat on the cat and the log sat on the dog.\n" * 60)
    ran = kiara("train", "--resume", "--allow-changed-data", "train.max_steps=6")
    assert ran.status == 0
    assert "warning: the data has changed since step 4" in ran.err
    assert json.loads(Path("checkpoints/text/run.json").read_text())["data_changed_at_step"] == 4
    assert "--allow-changed-data goes with --resume" in kiara("train", "text.txt", "--allow-changed-data").mistake


def test_a_run_that_ends_early_says_why(kiara: Kiara, text: Path, tiny_settings: tuple[str, ...]) -> None:
    words = ("train.max_steps=50", "train.eval_interval=1", "train.patience=1", "train.lr=1", "train.optimizer=sgd")
    ran = kiara("train", str(text), *tiny_settings, *words, "--json")
    assert ran.status == 0
    assert "no new best in 1 evaluations (train.patience)" in ran.err
    result = json.loads(ran.out.splitlines()[-1])
    assert result["status"] == "finished"
    assert result["step"] < 50


def test_a_missing_writers_package_is_a_mistake_and_leaves_nothing(
    kiara: Kiara, text: Path, tiny_settings: tuple[str, ...], nothing_behind: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    nothing_behind()
    line = kiara("train", str(text), *tiny_settings, "logging.writers=[wandb]").mistake
    assert line == (
        "error: logging.writers=wandb: the package wandb is not installed; "
        "pip install 'kiara-slm[track]', or leave it out"
    )
    nothing_behind()


@pytest.mark.slow
def test_a_kilobyte_trains_evaluates_and_generates_with_the_default_settings(kiara: Kiara) -> None:
    words = [f"{subject} {verb} the {thing}." for subject in ("Ann", "Bob", "Cat") for verb in ("sees", "has", "eats")
             for thing in ("apple", "bread", "cake", "dates", "eggs", "figs")]  # fmt: skip
    Path("kilobyte.txt").write_text(" ".join(words)[:1024])
    assert kiara("train", "kilobyte.txt", "train.max_steps=2").status == 0
    assert kiara("eval").status == 0
    assert kiara("generate", "--prompt", "Ann", "--max-new-tokens", "10").status == 0


def test_a_text_too_short_to_train_on_leaves_no_data_folder(kiara: Kiara, nothing_behind: Callable[[], None]) -> None:
    Path("short.txt").write_text("Hello, fox. " * 4)
    nothing_behind()
    assert "one window of model.context_length=512 needs 513" in kiara("train", "short.txt").mistake
    nothing_behind()


def test_a_run_that_cannot_be_made_is_refused_before_any_work(
    kiara: Kiara, text: Path, nothing_behind: Callable[[], None]
) -> None:
    nothing_behind()
    assert "cannot name a run" in kiara("train", str(text), "--name", "a/b").mistake
    nothing_behind()
    Path("checkpoints").write_text("in the way")
    assert "checkpoints is a file, not the folder of runs" in kiara("train", str(text)).mistake
    assert not Path("data").exists()


def test_a_data_folder_is_something_to_train_on(kiara: Kiara, text: Path, tiny_settings: tuple[str, ...]) -> None:
    words = ("data.shard_tokens=500", "data.sampling=blocks")
    made = json.loads(kiara("tokenize", str(text), *tiny_settings, *words, "--json").out)
    assert len(list(Path(made["folder"]).glob("train-*.bin"))) > 2
    text.unlink()
    ran = kiara("train", made["folder"], *tiny_settings, *words, "--json")
    assert ran.status == 0, ran.err
    assert "Using data/text-" in ran.err
    assert json.loads(ran.out.splitlines()[-1])["run"] == "text"
    assert kiara("eval", "--json").status == 0
    other = kiara("train", made["folder"], *tiny_settings[1:], "tokenizer.kind=bpe")
    assert "was made with tokenizer.kind=char, the config says bpe" in other.mistake


def corpus(documents: int, talks: int) -> str:
    said = [[{"role": "user", "content": f"{n} cats"}, {"role": "assistant", "content": "sat"}] for n in range(talks)]
    lines = [{"text": f"the cat sat on mat {n}."} for n in range(documents)]
    return "".join(json.dumps(line) + "\n" for line in [*lines, *({"messages": talk} for talk in said)])


def test_documents_and_conversations_of_one_file_are_both_learned_and_measured(
    kiara: Kiara, tiny_settings: tuple[str, ...]
) -> None:
    Path("mixed.jsonl").write_text(corpus(documents=80, talks=40))
    ran = kiara("train", "mixed.jsonl", *tiny_settings, "model.context_length=32")
    assert ran.status == 0
    assert re.search(r"learns .* targets in \d+ documents, \d+ targets in \d+ conversations", ran.err)
    assert re.search(r"measures .* targets in \d+ documents, \d+ targets in \d+ conversation", ran.err)
    measured = json.loads(kiara("eval", "--json").out)
    assert measured["tokens"] == measured["documents_tokens"] + measured["conversations_tokens"]
    assert measured["documents_tokens"] > measured["conversations_tokens"] > 0
    assert 0 < measured["documents_loss"] < 5
    assert 0 < measured["conversations_loss"] < 5


def test_a_validation_source_without_a_target_is_one_line_and_nothing_is_trained(
    kiara: Kiara, text: Path, tiny_settings: tuple[str, ...]
) -> None:
    Path("talks.jsonl").write_text(corpus(documents=0, talks=40))
    mistake = kiara("train", "talks.jsonl", f"data.val_source={text}", *tiny_settings).late_mistake
    assert "data.val_source=text.txt holds documents, talks.jsonl only conversations" in mistake
    assert not Path("checkpoints").exists()
