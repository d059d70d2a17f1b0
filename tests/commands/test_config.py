from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.config.load import load_config, to_mapping
from kiara_cli.config.schema import Config

Kiara = Callable[..., Any]


def test_the_resolved_config_is_yaml_that_reads_back_as_itself(kiara: Kiara) -> None:
    ran = kiara(
        "config", "-c", "small", "model.n_layers=7", "data.source=my text: #1.txt", "generate.stop=[a, 'b c']"
    )
    assert ran.status == 0
    assert ran.err == ""
    Path("again.yaml").write_text(ran.out)
    again = load_config(["again.yaml"]).config
    assert again.model.n_layers == 7
    assert again.data.source == "my text: #1.txt"
    assert again.generate.stop == ("a", "b c")
    settings = [line for line in kiara("config", "-c", "again.yaml").out.splitlines() if not line.endswith(":")]
    origins = {line.rpartition("# ")[2] for line in settings}
    assert origins - {"KIARA__RUNTIME__DEVICE", "KIARA__RUNTIME__DTYPE", "KIARA__RUNTIME__THREADS"} == {"again.yaml"}


def test_each_value_says_where_it_came_from(kiara: Kiara, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("configs").mkdir()
    Path("configs/default.yaml").write_text("train:\n  lr: 0.5\n  max_steps: 5\n  batch_size: 5\n")
    Path(".env").write_text("KIARA__TRAIN__MAX_STEPS=6\nKIARA__TRAIN__BATCH_SIZE=6\n")
    monkeypatch.setenv("KIARA__TRAIN__BATCH_SIZE", "7")
    printed = kiara("config", "train.grad_clip=2").out.splitlines()
    lines = {line.split(":")[0].strip(): line for line in reversed(printed)}
    for key, value, origin in (
        ("lr", "0.5", "configs/default.yaml"),
        ("max_steps", "6", ".env: KIARA__TRAIN__MAX_STEPS"),
        ("batch_size", "7", "KIARA__TRAIN__BATCH_SIZE"),
        ("grad_clip", "2.0", "command line"),
        ("beta1", "0.9", "default"),
    ):
        if key == "batch_size":
            continue  # the key stands in two sections
        assert lines[key].split("#")[0].split(":")[1].strip() == value
        assert lines[key].endswith(f"# {origin}")


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("train.LR=0.5", "no key 'LR' in train; did you mean 'lr'?"),
        ("TRAIN.lr=0.5", "no section 'TRAIN'; did you mean 'train'?"),
        ("lr=0.5", "settings are written SECTION.KEY=VALUE; did you mean train.lr=0.5 or train.lora.lr=0.5?"),
        ("train.lr", "train.lr is no setting; write KEY=VALUE"),
        ("generate.stop=[1, 2]", "generate.stop: 1 in a list of texts is not a text"),
    ],
)
def test_a_word_that_sets_nothing_is_refused_not_ignored(kiara: Kiara, word: str, answer: str) -> None:
    assert answer in kiara("config", word).mistake


@pytest.mark.parametrize("variable", ["KIARA__TRAIN__LRATE", "kiara__train__lrate"])
def test_a_variable_of_no_setting_is_refused_however_it_is_written(
    kiara: Kiara, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "0.5")
    assert f"{variable}: train.lrate=0.5: no key 'lrate'" in kiara("config").mistake


def test_json_is_the_whole_config(kiara: Kiara, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEVICE", "DTYPE", "THREADS"):
        monkeypatch.delenv(f"KIARA__RUNTIME__{name}")
    ran = kiara("config", "--json")
    assert json.loads(ran.out) == to_mapping(Config())
    Path("c.json").write_text(ran.out)
    assert load_config(["c.json"]).config == Config()


def test_what_a_command_does_not_use_is_marked_and_left_out_of_json(kiara: Kiara) -> None:
    marked = {
        line.split(":")[0].strip(): line.rpartition("# ")[2]
        for line in kiara("config", "--for", "generate", "train.grad_clip=0.5").out.splitlines()
    }
    assert marked["grad_clip"] == "command line; not used by generate"
    assert marked["model_name"] == "default; not used by generate"
    assert marked["top_k"] == marked["n_layers"] == "default"
    found = json.loads(kiara("config", "--for", "generate", "--json").out)
    assert "train" not in found
    assert found["data"] == {"encoding": None}
    assert found["generate"] == to_mapping(Config())["generate"]
    Path("c.json").write_text(kiara("config", "--for", "train", "--json").out)
    assert load_config(["c.json"]).config.train == Config().train
    assert (
        "--for frain: no such command reads a config; choose one of: tokenize, train"
        in kiara("config", "--for", "frain").mistake
    )


def test_a_setting_that_the_command_does_not_use_is_said_once_and_one_of_a_file_is_not(
    kiara: Kiara, trained: Path
) -> None:
    Path("life.yaml").write_text("train: {lr: 0.5}\nserve: {port: 1}\n")
    few = ("--max-new-tokens", "1", "-c", "life.yaml")
    assert kiara("generate", *few, "generate.top_k=3").err == ""
    ran = kiara("generate", *few, "train.lr=1", "runtime.seed=2")
    assert ran.err == "warning: train.lr and runtime.seed are not used by kiara generate\n"
    assert kiara("generate", *few, "train.lr=1").err == "warning: train.lr is not used by kiara generate\n"
    assert kiara("config", "train.lr=1").err == ""


def test_a_wrong_setting_of_the_log_is_one_line(kiara: Any) -> None:
    assert "logging.files=0" in kiara("config", "logging.files=0").mistake
    assert "choose one of: text, json" in kiara("config", "logging.format=xml").mistake
    Path("folder").mkdir()
    ran = kiara("config", "logging.file=folder")
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
