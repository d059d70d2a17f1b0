"""Layers, weakest first; and every mistake names its source."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiara_cli.config import layers, schema
from kiara_cli.config.keys import keys
from kiara_cli.config.layers import is_override
from kiara_cli.config.load import (
    adopt,
    from_mapping,
    load_config,
    to_mapping,
    to_yaml,
    value_at,
)
from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import VERSION, Config, DataConfig, EvalConfig, GenerateConfig
from kiara_cli.config.text import read_mapping
from kiara_cli.errors import KiaraError


def write(path: str, text: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
    return path


def test_without_any_layer_the_schema_speaks() -> None:
    assert load_config().config == Config()
    assert load_config().origins == {}


def test_each_layer_beats_the_one_before_it() -> None:
    first = write("first.yaml", "train: {lr: 0.1, batch_size: 1, max_steps: 1, warmup_steps: 1, log_interval: 1}")
    second = write("second.yaml", "train: {batch_size: 2, max_steps: 2, warmup_steps: 2, log_interval: 2}")
    write(".env", "KIARA__TRAIN__MAX_STEPS=3\nKIARA__TRAIN__WARMUP_STEPS=3\nKIARA__TRAIN__LOG_INTERVAL=3\n")
    environ = {"KIARA__TRAIN__WARMUP_STEPS": "4", "KIARA__TRAIN__LOG_INTERVAL": "4", "PATH": "/bin"}
    loaded = load_config([first, second], ["train.log_interval=5"], environ)
    train = loaded.config.train
    assert (train.lr, train.batch_size, train.max_steps) == (0.1, 2, 3)
    assert (train.warmup_steps, train.log_interval) == (4, 5)
    assert train.keep_last == Config().train.keep_last


def test_each_value_remembers_where_it_came_from() -> None:
    file = write("my.yaml", "model: {n_layers: 2}")
    write(".env", "KIARA__MODEL__N_HEADS=8")
    loaded = load_config([file], ["train.lr=1e-3"], {"KIARA__RUNTIME__SEED": "7"})
    assert loaded.origins == {
        "model.n_layers": "my.yaml",
        "model.n_heads": ".env: KIARA__MODEL__N_HEADS",
        "runtime.seed": "KIARA__RUNTIME__SEED",
        "train.lr": "command line",
    }


def test_configs_default_yaml_is_read_where_no_file_is_named() -> None:
    write("configs/default.yaml", "model: {n_layers: 2}")
    other = write("other.yaml", "train: {lr: 0.1}")
    assert load_config().config.model.n_layers == 2
    assert load_config([other]).config.model.n_layers == Config().model.n_layers


def test_a_bare_name_is_found_under_configs() -> None:
    write("configs/small.yaml", "model: {n_layers: 1}")
    loaded = load_config(["small"])
    assert loaded.config.model.n_layers == 1
    assert loaded.origins["model.n_layers"] == "configs/small.yaml"


def test_a_bare_name_falls_back_to_the_shipped_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    write("shipped/small.yaml", "model: {n_layers: 1}")
    monkeypatch.setattr(layers, "shipped_configs", lambda: Path("shipped").resolve())
    assert load_config(["small"]).config.model.n_layers == 1
    write("configs/small.yaml", "model: {n_layers: 2}")
    assert load_config(["small"]).config.model.n_layers == 2


def test_a_config_that_is_not_there_is_answered_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    write("shipped/small.yaml", "")
    monkeypatch.setattr(layers, "shipped_configs", lambda: Path("shipped").resolve())
    with pytest.raises(KiaraError, match=r"no config huge \(looked at .*configs/huge.yaml.*one of: small"):
        load_config(["huge"])


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("model.n_layer=4", "model.n_layer=4: no key 'n_layer' in model; did you mean 'n_layers'?"),
        ("modle.n_layers=4", "modle.n_layers=4: no section 'modle'; did you mean 'model'?"),
        ("zzz.n_layers=4", "zzz.n_layers=4: no section 'zzz'; it has: "),
        ("model.zzzzzzzz=4", "model.zzzzzzzz=4: no key 'zzzzzzzz' in model; it has: vocab_size, "),
        ("model.n_layers=four", "model.n_layers=four is not a valid value; expected a whole number"),
        ("model.n_layers=4.5", "model.n_layers=4.5 is not a valid value; expected a whole number"),
        ("model.n_layers=null", "model.n_layers=null is not a valid value; expected a whole number"),
        ("model.n_layers=true", "model.n_layers=true is not a valid value; expected a whole number"),
        ("train.LR=0.5", "train.LR=0.5: no key 'LR' in train; did you mean 'lr'?"),
        ("Train.lr=0.5", "Train.lr=0.5: no section 'Train'; did you mean 'train'?"),
        ("train.max_steps=" + "9" * 5000, "train.max_steps=" + "9" * 5000 + " is not a valid value; expected a w"),
        ("train.max_steps=" + "9" * 30, "train.max_steps=" + "9" * 30 + " is out of range; it must be from 1 to "),
        ("train.lr=1e999", "train.lr=inf is not a finite number"),
        ("data.stride=x", "data.stride=x is not a valid value; expected a whole number or null"),
        ("model.bias=maybe", "model.bias=maybe is not a valid value; expected true or false"),
        ("train.lr=fast", "train.lr=fast is not a valid value; expected a number"),
        ("runtime.device=gpu", "runtime.device=gpu is not a valid value; choose one of: auto, cpu, cuda, mps"),
        ("train.lr=-1", "train.lr=-1.0 is out of range; it must be above 0"),
        ("model.n_layers={a: 1}", "model.n_layers={'a': 1} is not a valid value"),
        ("model.drop_rate=2", "model.drop_rate=2.0 is out of range; it must be from 0 to 1, the nearest is 1"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_with_the_remedy(word: str, answer: str) -> None:
    with pytest.raises(KiaraError) as caught:
        load_config(overrides=[word])
    assert str(caught.value).startswith(answer)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_a_file_names_the_file() -> None:
    unknown = write("unknown.yaml", "model: {n_layer: 4}")
    wrong = write("wrong.yaml", "model: {n_layers: 0}")
    flat = write("flat.yaml", "model: 4")
    with pytest.raises(KiaraError, match=r"^unknown.yaml: model.n_layer=4: no key"):
        load_config([unknown])
    with pytest.raises(KiaraError, match=r"^wrong.yaml: model.n_layers=0 is out of range"):
        load_config([wrong])
    with pytest.raises(KiaraError, match=r"^flat.yaml: model=4: model is a section"):
        load_config([flat])


def test_a_mistake_in_a_variable_names_the_variable() -> None:
    with pytest.raises(KiaraError, match=r"^KIARA__MODEL__N_LAYER: model.n_layer=4: no key"):
        load_config(environ={"KIARA__MODEL__N_LAYER": "4"})
    write(".env", "KIARA__TRAIN__LR=x")
    with pytest.raises(KiaraError, match=r"^\.env: KIARA__TRAIN__LR: train.lr=x is not"):
        load_config()


def test_a_whole_number_may_be_written_with_an_exponent() -> None:
    file = write("steps.yaml", "train: {max_steps: 1e4, eval_interval: 2.0}")
    train = load_config([file], ["train.warmup_steps=1e2"]).config.train
    assert (train.max_steps, train.eval_interval, train.warmup_steps) == (10_000, 2, 100)
    assert isinstance(train.max_steps, int)


def test_a_text_is_taken_as_it_stands() -> None:
    words = ["data.source=1e5", "data.name=007", "eval.sample_prompt=a: b # c", "data.val_source=null"]
    config = load_config(overrides=words).config
    assert (config.data.source, config.data.name, config.eval.sample_prompt) == ("1e5", "007", "a: b # c")
    assert config.data.val_source is None


TYPED = ("no", "off", "Yes", "y", "010", "0123", "12:30", "1e3", "1e5", "1_000", "0x1f", "true", "1.50", "2024-01-01")


@pytest.mark.parametrize("typed", TYPED)
def test_a_text_setting_keeps_what_was_typed_in_every_layer(typed: str) -> None:
    write("a.yaml", f"data:\n  name: {typed}\ngenerate: {{stop: {typed}}}\n")
    write(".env", f"KIARA__DATA__VAL_SOURCE={typed}\n")
    loaded = load_config(["a.yaml"], [f"chat.system={typed}"], {"KIARA__EVAL__SAMPLE_PROMPT": typed})
    config = loaded.config
    found = {config.data.name, config.data.val_source, config.chat.system, config.eval.sample_prompt}
    assert found == {typed}
    assert config.generate.stop == (typed,)
    assert load_config([write("b.yaml", to_yaml(config))]).config.data == config.data
    if re.fullmatch(r"[1-9][0-9.e]*|true", typed):
        assert load_config([write("a.json", f'{{"data": {{"name": {typed}}}}}')]).config.data.name == typed


def test_numbers_and_truth_values_are_read_by_yaml_1_2() -> None:
    write(
        "a.yaml",
        "train: {max_steps: 010, warmup_steps: 1_000, eval_interval: 0x10, lr: 1e-3, keep_last: !!int '3'}\n"
        "model: {bias: yes, qk_norm: OFF}\nruntime: {compile: no, threads: '2'}\nserve: {access_log: off}\n",
    )
    config = load_config(["a.yaml"]).config
    train = config.train
    assert (train.max_steps, train.warmup_steps, train.eval_interval, train.lr) == (10, 1000, 16, 1e-3)
    assert (config.model.bias, config.model.qk_norm) == (True, False)
    assert (config.runtime.compile, config.runtime.threads, config.serve.access_log) == (False, 2, "off")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("train:\n  lr: 0.1\nmodel:\n  n_layers: 2\ntrain: {}\n", "'train' stands on line 1 and again on line 5"),
        ("train:\n  lr: 0.1\n  lr: 0.2\n", "'lr' stands on line 2 and again on line 3; keep"),
        ("train: {lr: 0.1, 'lr': 0.2}\n", "'lr' stands on line 1 and again on line 1; keep"),
        ("train.lr: 0.1\ntrain:\n  lr: 0.2\n", "train.lr is set twice"),
        ("? [a, b]\n: c\n", "line 1: a key must be a word"),
        ('{"train": {"lr": 1, "lr": 2}}', "'lr' stands there twice"),
        ("train: " + "[" * 5000, "it is nested too deeply"),
        ("train: {max_steps: " + "9" * 5000 + "}", "a number of 5000 digits"),
    ],
)  # fmt: skip
def test_a_config_that_contradicts_itself_or_cannot_be_read_is_one_line(text: str, cause: str) -> None:
    name = "a.json" if text.startswith("{") else "a.yaml"
    with pytest.raises(KiaraError, match=rf"^{name}.*: {cause}") as caught:
        load_config([write(name, text)])
    assert "\n" not in str(caught.value)


def test_merge_keys_of_yaml_do_not_count_as_repeated() -> None:
    write("a.yaml", "train: &base {lr: 0.1, batch_size: 2}\nmodel: {n_layers: 1}\n")
    write("b.yaml", "train:\n  <<: {lr: 0.1, batch_size: 2}\n  lr: 0.2\n")
    train = load_config(["a.yaml", "b.yaml"]).config.train
    assert (train.lr, train.batch_size) == (0.2, 2)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_loses_nothing(encoding: str) -> None:
    Path("a.yaml").write_bytes("data: {name: é}\n".encode(encoding))
    Path("b.json").write_bytes('{"chat": {"system": "é"}}'.encode(encoding))
    Path(".env").write_bytes("KIARA__TRAIN__LR=0.5\nKIARA__DATA__FIELD=é\n".encode(encoding))
    config = load_config(["a.yaml", "b.json"]).config
    assert (config.train.lr, config.data.name, config.chat.system, config.data.field) == (0.5, "é", "é", "é")


@pytest.mark.parametrize("items", ["[1, 2]", "[a, 1e3]", "[true]", "[null]", "[[a]]", "[{a: b}]"])
def test_a_list_of_something_else_than_texts_is_one_clear_line(items: str) -> None:
    for layered in ([write("a.yaml", f"generate: {{stop: {items}}}")], ()), ((), [f"generate.stop={items}"]):
        with pytest.raises(KiaraError, match=r"generate.stop: .* in a list of texts is not a text") as caught:
            load_config(*layered)
        assert "\n" not in str(caught.value)


def test_one_word_is_enough_where_a_list_is_asked_for() -> None:
    assert load_config(overrides=["generate.stop=END"]).config.generate.stop == ("END",)
    assert load_config(overrides=["generate.stop=[a, b]"]).config.generate.stop == ("a", "b")


def test_a_list_whose_quotes_a_shell_has_eaten_is_the_same_list() -> None:
    for written in ('["*"]', "[*]", "*"):
        assert load_config(overrides=[f"serve.allowed_origins={written}"]).config.serve.allowed_origins == ("*",)
    both = load_config(overrides=["serve.allowed_hosts=[*.local, kiara.lan:8000]"]).config.serve.allowed_hosts
    assert both == ("*.local", "kiara.lan:8000")


def test_threads_may_be_a_number_or_auto_in_every_layer() -> None:
    assert load_config(overrides=["runtime.threads=2"]).config.runtime.threads == 2
    assert load_config(overrides=["runtime.threads=auto"]).config.runtime.threads == "auto"
    assert load_config(environ={"KIARA__RUNTIME__THREADS": "3"}).config.runtime.threads == 3
    with pytest.raises(KiaraError, match="a number of threads, or auto"):
        load_config(overrides=["runtime.threads=lots"])


def test_a_path_is_not_an_override() -> None:
    assert is_override("model.n_layers=4")
    assert not is_override("data/a=b.txt")
    assert not is_override("n_layers=4")
    assert not is_override("model.n_layers")
    assert not is_override("--model.n_layers=4")
    assert is_override("modle.n_layers=4")
    assert is_override("Model.N_LAYERS=4")
    for name in ("my.notes=1.txt", "Report.v2=final.txt"):
        write(name, "text")
        assert not is_override(name)
    with pytest.raises(KiaraError, match=r"lr=0.5: .*did you mean train.lr=0.5"):
        layers.check_word("lr=0.5")
    with pytest.raises(KiaraError, match=r"tokenizer.vocab_size=9 or model.vocab_size=9\?"):
        layers.check_word("vocab_size=9")
    for name in (write("lr=0.5", "a file"), "a=b.txt", "lr"):
        layers.check_word(name)


def test_dotenv_is_read_as_a_shell_would_read_it() -> None:
    lines = [
        "# KIARA__MODEL__N_LAYERS=9",
        "export KIARA__DATA__NAME='my # data'  # a comment",
        'KIARA__DATA__SOURCE="a b.txt"',
        "KIARA__TRAIN__BATCH_SIZE = 4 # small",
        "KIARA__EVAL__SAMPLE_PROMPT=  # nothing",
        "OTHER=1",
        "no equals sign",
    ]
    write(".env", "\n".join(lines))
    config = load_config().config
    assert (config.data.name, config.data.source) == ("my # data", "a b.txt")
    assert (config.train.batch_size, config.eval.sample_prompt) == (4, "")
    assert config.model.n_layers == Config().model.n_layers


def test_an_empty_file_and_an_empty_section_set_nothing() -> None:
    assert load_config([write("empty.yaml", "# nothing\n")]).config == Config()
    assert load_config([write("section.yaml", "model:\n")]).config == Config()


@pytest.mark.parametrize("text", ["model: [1, 2", "a: b: c", "\t- x", "model: {n_layers: 4"])
def test_a_broken_yaml_file_is_one_line_that_names_it(text: str) -> None:
    with pytest.raises(KiaraError) as caught:
        load_config([write("broken.yaml", text)])
    assert str(caught.value).startswith("broken.yaml does not parse: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_holds_no_sections_is_refused() -> None:
    with pytest.raises(KiaraError, match="holds list, not sections"):
        load_config([write("list.yaml", "- 1\n- 2\n")])
    Path("bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KiaraError, match=r"cannot read the config bytes.yaml"):
        load_config(["bytes.yaml"])


def test_a_reference_that_leads_nowhere_is_the_users_mistake() -> None:
    with pytest.raises(KiaraError, match="correct the"):
        load_config([write("ref.yaml", "model: {n_layers: '${nowhere}'}")])


def test_json_and_yaml_say_the_same() -> None:
    config = load_config(overrides=["model.n_layers=2", "train.lr=1e-5", "generate.stop=[a]"]).config
    write("a.json", json.dumps(to_mapping(config)))
    write("a.yaml", to_yaml(config))
    assert load_config(["a.json"]).config == load_config(["a.yaml"]).config == config


TEXT = st.text(max_size=20)


@settings(max_examples=20)
@given(TEXT, TEXT, st.lists(st.text(min_size=1, max_size=20), max_size=3), st.floats(1e-9, 1e3))
def test_a_config_survives_its_own_yaml(name: str, prompt: str, stop: list[str], lr: float) -> None:
    config = replace(
        Config(),
        data=DataConfig(name=name),
        eval=EvalConfig(sample_prompt=prompt),
        generate=GenerateConfig(stop=tuple(stop)),
        train=replace(Config().train, lr=lr),
    )
    for text in (to_yaml(config), to_yaml(config, {"train.lr": "command line"})):
        Path("config.yaml").write_bytes(text.encode())
        assert from_mapping(read_mapping(Path("config.yaml")), "config.yaml").config == config


def test_yaml_with_origins_says_beside_each_value_where_it_came_from() -> None:
    loaded = load_config([write("my.yaml", "model: {n_layers: 2}")], ["generate.stop=[a]"])
    lines = {line.split(":")[0].strip(): line for line in to_yaml(loaded.config, loaded.origins).splitlines()}
    assert lines["n_layers"].split() == ["n_layers:", "2", "#", "my.yaml"]
    assert lines["stop"].endswith("# command line")
    assert lines["emb_dim"].endswith("# default")
    assert lines["version"].endswith("# default")
    assert "#" not in lines["model"]


def test_a_renamed_key_is_migrated_with_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(schema.RENAMED, "model.layers", "model.n_layers")
    loaded = load_config([write("old.yaml", "model: {layers: 2}")])
    assert loaded.config.model.n_layers == 2
    assert loaded.notices == ("old.yaml: model.layers is now called model.n_layers",)


def test_configs_of_version_1_give_the_same_model_under_todays_names() -> None:
    old = "version: 1\nmodel: {n_heads: 8, head_width: null, ffn_dim: 96, norm_eps: null, n_kv_heads: null}\n"
    loaded = load_config([write("old.yaml", old)], ["model.head_width=16"])
    model = loaded.config.model
    assert (model.head_dim, model.hidden_dim, model.norm_eps, model.n_kv_heads) == (16, 96, 1e-6, 8)
    assert loaded.config.version == VERSION
    assert "command line: model.head_width is now called model.head_dim" in loaded.notices


def test_settings_that_follow_from_others_follow_them_through_every_layer() -> None:
    loaded = load_config([write("a.yaml", "model: {emb_dim: 64}")], ["model.n_heads=8"])
    assert loaded.config.model == ModelConfig(emb_dim=64, n_heads=8)
    assert "head_dim: 8" in to_yaml(loaded.config)
    grouped = to_mapping(replace(Config(), model=ModelConfig(n_kv_heads=2)))
    assert adopt(load_config(["a.yaml"], ["model.norm_eps=null", "model.emb_dim=128"]), grouped, ["model"], "c.pt")
    with pytest.raises(KiaraError, match=r"n_kv_heads=4: but c.pt was made with model.n_kv_heads=2"):
        adopt(load_config(overrides=["model.n_kv_heads=null"]), grouped, ["model"], "c.pt")
    with pytest.raises(KiaraError, match="expected a whole number or null"):
        load_config(overrides=["model.head_dim=wide"])


def test_a_config_from_the_future_is_refused() -> None:
    with pytest.raises(KiaraError, match=rf"^new.yaml: version={VERSION + 1}: .*update kiara-slm"):
        load_config([write("new.yaml", f"version: {VERSION + 1}\nmodel: {{n_layers: 2}}\n")])


def test_every_key_of_the_schema_can_be_looked_up() -> None:
    assert "model.n_layers" in keys()
    for key in keys():
        value_at(Config(), key)


def stored() -> dict[str, object]:
    return to_mapping(load_config(overrides=["model.n_layers=2", "model.vocab_size=99", "train.lr=0.5"]).config)


def test_a_checkpoint_gives_its_sections_and_leaves_the_others() -> None:
    config = adopt(load_config(overrides=["train.lr=0.1"]), stored(), ("model", "tokenizer"), "best.pt")
    assert (config.model.n_layers, config.model.vocab_size, config.train.lr) == (2, 99, 0.1)
    file = write("all.yaml", "model: {vocab_size: null, n_layers: 2}")  # as default.yaml has it: null is not given
    assert adopt(load_config([file]), stored(), ("model", "tokenizer"), "best.pt").model.vocab_size == 99


def test_a_layer_that_contradicts_a_checkpoint_is_named() -> None:
    file = write("my.yaml", "model: {n_layers: 3}")
    cause = r"model.n_layers=3: but best.pt was made with model.n_layers=2; leave it out"
    with pytest.raises(KiaraError, match=rf"^my.yaml: {cause}"):
        adopt(load_config([file]), stored(), ("model",), "best.pt")
    with pytest.raises(KiaraError, match=rf"^{cause}"):
        adopt(load_config(overrides=["model.n_layers=3"]), stored(), ("model",), "best.pt")


def test_a_layer_that_agrees_with_a_checkpoint_is_no_contradiction() -> None:
    config = adopt(load_config(overrides=["model.n_layers=2"]), stored(), ("model",), "best.pt")
    assert config.model.n_layers == 2


def test_the_implicit_default_yaml_contradicts_no_checkpoint() -> None:
    write("configs/default.yaml", "model: {n_layers: 4}")
    assert adopt(load_config(), stored(), ("model",), "best.pt").model.n_layers == 2


@pytest.mark.parametrize("text", ["${HOME}", "a ${b} c", "???", "${", "\\${x}", "$${y}"])
def test_texts_are_taken_as_they_stand(text: str) -> None:
    written = write(
        "my.yaml", f"eval:\n  sample_prompt: {json.dumps(text)}\ngenerate:\n  stop: [{json.dumps(text)}]\n"
    )
    config = load_config([written], [f"data.source={text}"]).config
    assert (config.eval.sample_prompt, config.data.source, config.generate.stop) == (text, text, (text,))
    assert load_config([written], ["eval.sample_prompt=plain"]).config.eval.sample_prompt == "plain"
    assert load_config([write("again.yaml", to_yaml(config))]).config == config


def test_a_reference_in_a_number_still_works() -> None:
    config = load_config(
        [write("ref.yaml", "model: {n_layers: 3, n_heads: '${model.n_layers}', emb_dim: 96}")]
    ).config
    assert config.model.n_heads == 3


@pytest.mark.parametrize("word", ["runtime.threads='4'", 'runtime.threads="4"', "runtime.threads=4"])
def test_a_number_of_threads_may_be_quoted(word: str) -> None:
    assert load_config(overrides=[word]).config.runtime.threads == 4


def test_values_that_do_not_go_together_are_refused_at_once_or_when_the_config_is_asked_for() -> None:
    with pytest.raises(KiaraError, match="not divisible"):
        load_config(overrides=["model.emb_dim=66"])
    loaded = load_config(overrides=["model.emb_dim=66"], check=False)
    assert loaded.values == {"model.emb_dim": 66}
    with pytest.raises(KiaraError, match="not divisible"):
        assert loaded.config


def test_adopting_compares_before_it_checks() -> None:
    stored = to_mapping(load_config(overrides=["model.emb_dim=66", "model.n_heads=3"]).config)
    same = load_config(overrides=["model.emb_dim=66", "train.lr=0.5"], check=False)
    config = adopt(same, stored, ("model",), "x.pt")
    assert (config.model.emb_dim, config.model.n_heads, config.train.lr) == (66, 3, 0.5)
    with pytest.raises(KiaraError, match=r"model.emb_dim=70: but x.pt was made with model.emb_dim=66"):
        adopt(load_config(overrides=["model.emb_dim=70"], check=False), stored, ("model",), "x.pt")


@pytest.mark.parametrize("word", ["logging.writers=aim", "logging.writers=[tensorboard, aim]"])
def test_an_unknown_writer_is_refused(word: str) -> None:
    with pytest.raises(KiaraError, match="logging.writers=aim: no such writer; choose among: tensorboard, wandb"):
        load_config(overrides=[word])


def test_a_section_within_a_section_is_set_shown_and_corrected_like_any_other() -> None:
    write("a.yaml", "train:\n  lora:\n    rank: 4\n    targets: [a, b]\n")
    loaded = load_config(["a.yaml"], ["train.lora.alpha=8", "train.lora.targets=[*.qkv, head]"])
    assert (loaded.config.train.lora.rank, loaded.config.train.lora.alpha) == (4, 8.0)
    assert loaded.config.train.lora.targets == ("*.qkv", "head")
    assert loaded.origins["train.lora.rank"] == "a.yaml"
    write("b.yaml", to_yaml(loaded.config))
    assert load_config(["b.yaml"]).config == loaded.config
    for word, said in (
        ("train.lora.rnk=4", "train.lora.rnk=4: no key 'rnk' in train.lora; did you mean 'rank'?"),
        ("train.lora=4", "train.lora=4: train.lora is a section; write train.lora.KEY=VALUE"),
        ("train.lora.rank=-1", "train.lora.rank=-1 is out of range; it must be at least 0, the nearest is 0"),
    ):
        with pytest.raises(KiaraError) as caught:
            load_config([], [word])
        assert str(caught.value) == said
