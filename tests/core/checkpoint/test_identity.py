from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.config.keys import keys
from kiara_cli.config.load import load_config
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import identity
from kiara_cli.core.checkpoint.identity import counts, definition, different, group_hash, results_hash
from kiara_cli.core.checkpoint.run import Run

# On which side every setting is. A new one stands in neither table and fails the test: place it here, and in
# identity.py if it cannot change what a run learns and measures.
COUNT = """
data.sampling data.stride data.sources data.replay data.replay_source
model.vocab_size model.context_length model.emb_dim model.n_heads model.n_kv_heads model.head_dim model.n_layers
model.hidden_dim model.drop_rate model.positions model.rope_theta model.rope_scaling model.rope_factor
model.rope_original_context model.rope_low_freq model.rope_high_freq model.rotary_share model.norm model.norm_eps
model.feedforward model.residual model.scale_embeddings model.qk_norm model.tied_head model.bias model.attention_bias
train.batch_size train.accumulation train.optimizer train.lr train.schedule train.min_lr_ratio train.warmup_steps
train.decay_share train.weight_decay train.beta1 train.beta2 train.grad_clip train.z_loss train.label_smoothing
train.loss_chunk train.recompute train.ema_decay train.patience train.skip_batches train.eval_interval train.loss_on
train.primer train.objective train.preference.beta train.preference.margin
train.lora.rank train.lora.alpha train.lora.dropout train.lora.targets train.lora.lr
eval.batch_size eval.max_tokens eval.stride
runtime.device runtime.dtype runtime.compile runtime.native runtime.seed runtime.deterministic
"""
DO_NOT = """
version
tokenizer.kind tokenizer.vocab_size tokenizer.alphabet tokenizer.fit_bytes
data.source data.val_source data.name data.field data.prompt_field data.reply_field data.encoding
data.val_fraction data.shard_tokens data.output data.corpus_bytes data.corpus_seed
train.max_steps train.max_epochs train.batch_tokens train.log_interval train.checkpoint_interval train.keep_last
train.save_safetensors eval.sample_prompt eval.sample_tokens runtime.threads runtime.parallel
"""
NEVER = (
    "generate.",
    "chat.",
    "serve.",
    "retrieve.",
    "quantize.",
    "logging.",
)  # whole sections that training does not read
FACTS: dict[str, Any] = {
    "steps": 10, "text_hash": "a", "tokenizer_hash": "b", "weights_hash": "c",
    "hook_files": {"my.py": "d"}, "code_hash": "e", "threads": 2, "torch": "2.13",
}  # fmt: skip


def test_every_setting_is_on_one_side_and_the_side_is_the_one_that_is_stated() -> None:
    count, do_not = set(COUNT.split()), set(DO_NOT.split())
    assert not count & do_not
    strangers = [key for key in keys() if not key.startswith(NEVER) and key not in count | do_not]
    assert strangers == [], "place them in COUNT or DO_NOT, and in core/checkpoint/identity.py if they do not count"
    assert {key for key in keys() if counts(key)} == count
    defined = definition(Config(), FACTS)
    assert {key for key in defined if "." in key} == count
    assert set(defined) - count == set(identity.FACTS) - {"ranks"}  # which one process does not state
    assert set(definition(Config(), FACTS | {"ranks": 2})) - count == set(identity.FACTS)


def test_what_cannot_change_results_leaves_the_hash_and_all_else_changes_it() -> None:
    before = definition(Config(), FACTS)
    words = ["train.log_interval=3", "train.checkpoint_interval=9", "eval.sample_tokens=0", "data.name=b",
             "logging.level=debug", "generate.temperature=0.1", "train.max_steps=10", "runtime.threads=2"]  # fmt:skip
    assert results_hash(definition(load_config(overrides=words).config, FACTS)) == results_hash(before)
    hashes = {results_hash(before)}
    hook = "hooks.quiet.use=scale"
    changes = [["train.lr=0.01"], ["model.emb_dim=64"], ["eval.max_tokens=9"], ["runtime.dtype=fp32"],
               ["train.primer=false"], [hook], [hook, "hooks.quiet.with.factor=0.5"]]  # fmt: skip
    for words in changes:
        hashes.add(results_hash(definition(load_config(overrides=words).config, FACTS)))
    for name, value in FACTS.items():
        other = {"my.py": "other"} if isinstance(value, dict) else "other"
        hashes.add(results_hash(definition(Config(), {**FACTS, name: other})))
    assert len(hashes) == 1 + len(changes) + len(FACTS)


def test_a_group_is_all_but_the_seed() -> None:
    one, other, third = (
        definition(load_config(overrides=words).config, FACTS)
        for words in (["runtime.seed=1"], ["runtime.seed=2"], ["runtime.seed=2", "train.lr=1e-3"])
    )
    assert results_hash(one) != results_hash(other)
    assert group_hash(one) == group_hash(other) != group_hash(third)
    assert different(other, third) == ["train.lr"]


def test_a_run_that_is_resumed_as_it_was_keeps_its_hash_and_one_that_changes_equals_none_that_did_not(
    tmp_path: Path,
) -> None:
    run = Run.create(tmp_path, "book")
    facts = {**FACTS, "status": "running"}
    run.describe(Config(), facts)
    first = run.facts()
    run.describe(Config(), facts, step=5)
    assert run.facts()["results_hash"] == first["results_hash"]
    assert "resumed_with_changes" not in run.facts()
    longer = dataclasses.replace(Config(), train=dataclasses.replace(Config().train, ema_decay=0.9))
    run.describe(longer, {**facts, "steps": 20, "code_hash": "new"}, step=7)
    changed = run.facts()
    assert changed["resumed_with_changes"] == [{"step": 7, "changed": ["train.ema_decay", "steps", "code"]}]
    straight = definition(longer, {**facts, "steps": 20, "code_hash": "new"})
    assert changed["results_hash"] not in (first["results_hash"], results_hash(straight))
    assert changed["group_hash"] not in (first["group_hash"], group_hash(straight))
    run.describe(longer, {**facts, "steps": 20, "code_hash": "new"}, step=9)
    assert run.facts()["results_hash"] == changed["results_hash"]


def test_the_hash_of_the_code_follows_a_source_of_training_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "core/train/loop.py",
        "core/loss.py",
        "core/runtime/native.c",
        "console/plots.py",
        "core/serve/a.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(identity.kiara_cli, "__file__", str(tmp_path / "__init__.py"))
    seen = [identity.code_hash.__wrapped__()]
    for name in (
        "console/plots.py",
        "core/serve/a.py",
        "core/train/loop.py",
        "core/loss.py",
        "core/runtime/native.c",
    ):
        (tmp_path / name).write_text("2")
        seen.append(identity.code_hash.__wrapped__())
    assert [later == earlier for earlier, later in itertools.pairwise(seen)] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_all_that_training_imports_is_in_the_hash_but_what_only_writes_samples() -> None:
    root = Path(identity.__file__).parents[2]
    places = [root / place for place in identity.SOURCES]
    files = [file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place])]
    imported = {name for file in files for name in re.findall(r"from kiara_cli\.(?:core\.)?(\w+)", file.read_text())}
    inside = {Path(place).stem for place in identity.SOURCES}
    # Samples are written by `generate`, and `quantize` reads the weights of checkpoints that cannot be trained.
    assert imported - inside - {"core", "errors"} == {"generate", "quantize"}
