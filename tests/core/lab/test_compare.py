from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.config.load import load_config
from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.lab.baseline import Change, check_baseline
from kiara_cli.core.lab.compare import Known, compare, from_defaults, known_run
from kiara_cli.core.lab.groups import group, group_of, tell_apart
from kiara_cli.core.lab.outcome import outcome
from kiara_cli.core.lab.records import read_records
from kiara_cli.errors import KiaraError

MakeRun = Callable[..., Run]
FACTS = {"text_hash": "text", "data_hash": "data", "tokenizer_hash": "tok", "code_hash": "code", "steps": 20,
         "threads": 1, "torch": "2.13", "status": "finished"}  # fmt: skip


OTHER = {"text_hash": "b", "data_hash": "b"}


@functools.cache
def config_of(*words: str) -> Config:
    return load_config(overrides=["train.max_steps=20", *words]).config


def known(*words: str, name: str = "base", **facts: Any) -> Known:
    return Known(name, config_of(*words), {**FACTS, **facts})


def changed(*words: str, base: Sequence[str] = (), **facts: Any) -> list[str]:
    return [change.key for change in compare(known(*words, name="new", **facts), known(*base)).changes]


HOOK = ("hooks.quiet.use=scale", "hooks.quiet.at=blocks.0.resid_post", "hooks.quiet.with.factor=0.5")


@pytest.mark.parametrize(("words", "base", "facts", "keys"), [
    ((), (), {}, []),
    (("runtime.seed=5", "train.log_interval=3", "data.name=x", "logging.level=debug"), (), {}, []),
    (("train.lr=0.1",), (), {}, ["train.lr"]),
    (("train.lr=0.1", "model.emb_dim=64"), (), {}, ["model.emb_dim", "train.lr"]),
    (("model.emb_dim=64",), (), {}, ["model.emb_dim"]),  # heads' and hidden width follow
    (("model.emb_dim=64", "model.hidden_dim=344"), (), {}, ["model.emb_dim", "model.hidden_dim"]),
    (("model.n_heads=2",), (), {}, ["model.n_heads"]),  # so do key and value heads
    (("model.norm=layernorm",), (), {}, ["model.norm"]),  # and epsilon
    (("train.max_steps=40",), (), {"steps": 40}, ["train.max_steps"]),
    (("train.max_epochs=2",), (), {}, []),  # which makes as many steps
    (("train.batch_size=4", "train.max_epochs=2"), ("train.max_epochs=2",), {"steps": 9}, ["train.batch_size"]),
    (("train.accumulation=3", "train.batch_size=4", "train.batch_tokens=4608"),
     ("train.accumulation=1", "train.batch_tokens=4608"), {}, ["train.batch_size"]),
    (("train.accumulation=2", "train.batch_tokens=8448"), ("train.batch_tokens=4224",), {}, ["train.batch_tokens"]),
    (HOOK, (), {"hook_files": {"a.py": "1"}}, ["hooks.quiet"]),  # with all of its settings and its source
    ((*HOOK[:2], "hooks.quiet.with.factor=0.1"), HOOK, {}, ["hooks.quiet.with.factor"]),
    ((), HOOK, {}, ["hooks.quiet"]),
    (HOOK, HOOK, {"hook_files": {"a.py": "1"}}, ["the hooks' source"]),
    ((), (), {"weights_hash": "w", "from": "a.pt"}, ["--from"]),
    ((), (), {"threads": 2, "torch": "2.14", "code_hash": "new"}, []),
    (("runtime.native=true",), ("runtime.native=false",), {}, []),
    (("runtime.dtype=bf16",), ("runtime.dtype=fp32",), {}, ["runtime.dtype"]),
])  # fmt: skip
def test_what_counts_as_a_change_is_what_a_person_set_and_not_what_follows_from_it(
    words: tuple[str, ...], base: tuple[str, ...], facts: dict[str, Any], keys: list[str]
) -> None:
    assert changed(*words, base=base, **facts) == keys


@pytest.mark.parametrize(("words", "facts", "reason"), [
    (("data.source=other.txt",), OTHER, "other data: data.source=other.txt (there tales)"),
    (("data.val_fraction=0.2",), OTHER, "another split: data.val_fraction=0.2 (there 0.1)"),
    ((), OTHER, "other data"),
    ((), {"text_hash": "", "data_hash": "b"}, "other data"),
    (("eval.max_tokens=9",), {}, "another evaluation: eval.max_tokens=9 (there null)"),
    (("eval.stride=9",), {}, "another evaluation: eval.stride=9 (there null)"),
    (("tokenizer.kind=char",), {"text_hash": "", "tokenizer_hash": "b", "data_hash": "b"}, "older data folder"),
    (("tokenizer.kind=char", "data.source=b"), OTHER | {"tokenizer_hash": "b"}, "other data"),
])  # fmt: skip
def test_other_data_another_split_and_another_evaluation_are_refused_by_name(
    words: tuple[str, ...], facts: dict[str, Any], reason: str
) -> None:
    found = compare(known(*words, **facts), known())
    assert reason in "; ".join(found.unfair)
    with pytest.raises(KiaraError, match=r"this run cannot be compared with base: .*; leave the data") as refusal:
        check_baseline(known())(known(*words).config, {**FACTS, **facts})
    assert reason in refusal.value.cause


def test_other_tokenizers_of_the_same_text_are_one_change_and_compare_in_bits_per_byte() -> None:
    facts = {"tokenizer_hash": "b", "data_hash": "b"}
    new = known("tokenizer.kind=char", "model.vocab_size=64", **facts)
    found = compare(new, known("model.vocab_size=2048"))
    assert ([str(change) for change in found.changes], found.unfair) == (["tokenizer=char-b (there bpe-tok)"], ())
    assert found.figure == "val_bits_per_byte"
    assert "only bits per byte can be compared" in found.cautions[0]
    limited = compare(known("eval.max_tokens=9", **facts), known("eval.max_tokens=9"))
    assert "eval.max_tokens is not the same text" in limited.unfair[0]


def test_another_version_other_threads_and_other_windows_are_cautions() -> None:
    found = compare(known("model.context_length=64", code_hash="new", threads=4), known())
    assert found.unfair == ()
    assert [change.key for change in found.changes] == ["model.context_length"]
    said = "; ".join(found.cautions)
    assert "another version of Kiara" in said
    assert "threads 4 and 1" in said
    assert f"windows of 64 and {ModelConfig().context_length} tokens" in said


def test_more_than_one_change_is_refused_unless_it_is_declared_as_one() -> None:
    new = known("train.lr=0.1", "model.emb_dim=64")
    with pytest.raises(KiaraError, match=r"2 settings differ from base: model.emb_dim=64 \(there 128\), "
                       r"train.lr=0.1 \(there 0.012\); .*: --change NAME=model.emb_dim,train.lr"):  # fmt: skip
        check_baseline(known())(new.config, FACTS)
    facts = check_baseline(known(results_hash="abc"), Change.parse("wide, fast=model,train.lr"))(new.config, FACTS)
    assert facts == {
        "baseline": {"run": "base", "results_hash": "abc"},
        "change": {"name": "wide, fast", "keys": ["model.emb_dim", "train.lr"]},
    }
    with pytest.raises(KiaraError, match=r"--change x does not name what differs from base too: model.emb_dim=64"):
        check_baseline(known(), Change.parse("x=train.lr"))(new.config, FACTS)
    with pytest.raises(KiaraError, match=r"--change x names train.beta1, which is as base has it"):
        check_baseline(known(), Change.parse("x=train.lr,model.emb_dim,train.beta1"))(new.config, FACTS)
    for text in ("x", "=train.lr", "x=", "x= , "):
        with pytest.raises(KiaraError, match="expected NAME=KEY,KEY"):
            Change.parse(text)


def test_no_change_is_said_to_be_a_repeat(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "kiara.lab")
    assert check_baseline(known())(known().config, FACTS)["change"] == {"name": "a repeat", "keys": []}
    check_baseline(known())(known("runtime.seed=9").config, FACTS)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "Compared with base: nothing differs: a repeat, which is to give the same."
    assert said[1] == "Compared with base: another seed: a repeat."
    check_baseline(known(status="killed"))(known().config, FACTS)
    assert "base did not come to its end (killed)" in caplog.text


def test_what_is_not_the_default_leaves_out_what_was_decided() -> None:
    config = load_config(overrides=["model.emb_dim=64", "model.vocab_size=99", "runtime.device=cpu", *HOOK]).config
    keys = [change.key for change in from_defaults(config)]
    assert [key for key in keys if not key.startswith("hooks.")] == ["model.emb_dim"]
    assert "hooks.quiet.with.factor" in keys


def test_a_run_whose_files_are_damaged_cannot_be_compared_and_says_why(make_run: MakeRun) -> None:
    one, other = make_run("a"), make_run("b")
    (one.folder / "run.json").write_text("{")
    with pytest.raises(KiaraError, match=r"a/run\.json is not readable"):
        known_run(one)
    (other.folder / "config.yaml").write_text("model: {n_layers: many}")
    with pytest.raises(KiaraError, match=r"b/config\.yaml: model\.n_layers=many"):
        known_run(other)
    (other.folder / "config.yaml").unlink()
    with pytest.raises(KiaraError, match=r"b/config\.yaml is not there; restore it"):
        known_run(other)


def test_groups_are_all_but_the_seed_and_count_what_ended_once_a_seed(make_run: MakeRun, root: Path) -> None:
    for number, loss in enumerate((1.0, 1.2, 1.4), start=1):
        make_run(f"base-{number}", loss=loss, seed=number)
    make_run("base-again", loss=1.4, seed=3, created="2026-11-02T00:00:00+00:00")
    make_run("base-failed", seed=4, status="failed")
    make_run("fast", "train.lr=0.1", loss=0.9)
    base, fast = group(read_records(root))
    assert [record.name for record in base.records] == ["base-1", "base-2", "base-3", "base-failed", "base-again"]
    assert [record.name for record in base.counted] == ["base-1", "base-2", "base-again"]
    assert base.loss is not None
    assert (base.loss.n, base.loss.mean, base.loss.low, base.loss.high) == (3, pytest.approx(1.2), 1.0, 1.4)
    assert base.loss.sd == pytest.approx(0.2)  # by hand: the root of (0.04 + 0 + 0.04) / 2
    assert base.bits_per_byte is not None
    assert base.bits_per_byte.mean == pytest.approx(0.6)
    assert fast.loss is not None
    assert (fast.loss.n, fast.loss.sd) == (1, None)
    assert tell_apart([base, fast], root) == ["", "train.lr=0.1"]
    assert group_of("base-2", [base, fast]) is base


def test_an_outcome_says_the_difference_and_how_far_repeats_are_apart(make_run: MakeRun, root: Path) -> None:
    for number, loss in enumerate((1.0, 1.2, 1.4), start=1):
        make_run(f"base-{number}", loss=loss, seed=number)
    about = {"baseline": {"run": "base-1"}, "change": {"name": "rate", "keys": ["train.lr"]}}
    held = outcome(make_run("fast", "train.lr=0.1", loss=0.9, **about), root)
    assert held is not None
    assert (held.values, held.change, held.usual) == ((0.9, 1.0), "rate", pytest.approx(4.303 * 2**0.5 * 0.2))
    alone = make_run("other", "train.beta1=0.5", baseline={"run": "fast"}, change={"name": "beta", "keys": []})
    held = outcome(alone, root)
    assert held is not None
    assert held.usual is None
    for facts in ({}, {"baseline": "fast", "change": 3}, {"baseline": {"run": "gone"}, "change": {"name": "x"}}):
        assert outcome(make_run(f"none-{len(list(root.iterdir()))}", **facts), root) is None
