"""The section `hooks`: merged over files, reached by dotted words, kept in YAML, and its mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiara_cli.config.hooks import HookConfig, hooks_of
from kiara_cli.config.load import changes, from_mapping, load_config, to_mapping, to_yaml
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint.run import config_hash
from kiara_cli.errors import KiaraError

FIRST = """hooks:
  quiet: {use: scale, at: blocks.*.attention.heads, heads: 2, with: {factor: 0.5}}
  loud: {use: add, at: [logits, final_norm.out], with: {value: [1, 2.5], mode: "no"}, ramp: 3}
"""


@pytest.fixture(autouse=True)
def _files() -> None:
    Path("one.yaml").write_text(FIRST)
    Path("two.yaml").write_text("hooks:\n  quiet: {from_step: 5, with: {factor: 0.25}}\n  loud: null\n")


def test_hooks_merge_over_files_and_words_and_null_takes_one_out() -> None:
    (quiet, loud) = hooks_of(load_config(["one.yaml"]).config.hooks)
    assert quiet == HookConfig("quiet", "scale", ("blocks.*.attention.heads",), (2,), arguments={"factor": 0.5})
    assert (loud.at, loud.ramp) == (("logits", "final_norm.out"), 3)
    assert loud.arguments == {"value": [1, 2.5], "mode": "no"}
    words = ["hooks.quiet.to_step=9", "hooks.new.use=identity", "hooks.new.at=logits"]
    quiet, new = hooks_of(load_config(["one.yaml", "two.yaml"], words).config.hooks)
    assert (quiet.arguments, quiet.from_step, quiet.to_step, quiet.heads) == ({"factor": 0.25}, 5, 9, (2,))
    assert (new.name, new.use, new.at) == ("new", "identity", ("logits",))


def test_hooks_are_written_as_they_are_read_and_a_config_without_one_is_written_as_before() -> None:
    loaded = load_config(["one.yaml"])
    Path("three.yaml").write_text(to_yaml(loaded.config, loaded.origins))
    assert load_config(["three.yaml"]).config == loaded.config
    assert from_mapping(to_mapping(loaded.config), "a checkpoint").config == loaded.config
    assert config_hash(loaded.config) != config_hash(Config())
    assert "hooks" not in to_yaml(Config())


def test_a_changed_a_new_and_a_taken_out_hook_are_changes_of_a_stored_config() -> None:
    stored = load_config(["one.yaml"]).config
    wanted = load_config(["one.yaml"], ["hooks.quiet.with.factor=2", "hooks.new.use=identity", "hooks.loud=null"])
    assert {change.key for change in changes(wanted, stored)} == {
        "hooks.quiet.with.factor", "hooks.new.use", "hooks.loud",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("hooks.quiet.uze=x", "no key 'uze' in a hook; did you mean 'use'?"),
        ("hooks.new.at=logits", "hooks.new does not say what it uses; set hooks.new.use"),
        ("hooks.quiet.heads=a", "hooks.quiet.heads=a is not a valid value; expected a whole number, or a list"),
        ("hooks.quiet.from_step=-1", "expected a step, at least 0"),
        ("hooks.quiet=scale", "hooks.quiet=scale is no hook; write hooks.quiet.use=NAME"),
        ("hooks.quiet.with=3", "write hooks.quiet.with.ARGUMENT=VALUE"),
        ("hooks.quiet.with.a.b=3", "no key 'with.a.b' in a hook"),
        ("hooks.to-day.use=scale", "'to-day' cannot name a hook"),
        ("hook.quiet.use=scale", "no section 'hook'; did you mean 'hooks'?"),
        ("hooks.quiet.to_step=0", "hooks.quiet.to_step=0 is before its first step, 1"),
        ("hooks.quiet.fade=3", "hooks.quiet.fade=3: there is no end to fade to; set hooks.quiet.to_step"),
    ],
)
def test_a_wrong_setting_of_a_hook_is_one_line_that_says_what_is_right(word: str, message: str) -> None:
    with pytest.raises(KiaraError) as caught:
        load_config(["one.yaml"], [word])
    assert message in str(caught.value)


def test_a_mistake_in_a_file_names_the_file() -> None:
    Path("bad.yaml").write_text("hooks: {quiet: {at: logits, wiht: {factor: 2}}}\n")
    with pytest.raises(KiaraError, match=r"bad.yaml: hooks.quiet.wiht.*did you mean 'with'"):
        load_config(["bad.yaml"])
    Path("bad.yaml").write_text("hooks: {quiet: {}}\n")
    with pytest.raises(KiaraError, match=r"bad.yaml: hooks.quiet={} is no hook; write hooks.quiet.use=NAME"):
        load_config(["bad.yaml"])
    Path("bad.yaml").write_text("hooks: [scale]\n")
    with pytest.raises(KiaraError, match=r"bad.yaml: hooks=.* is a section; write hooks.NAME.use=HOOK"):
        load_config(["bad.yaml"])


@pytest.mark.parametrize(
    ("settings", "strengths"),
    [
        ({}, [1, 1, 1, 1, 1, 1]),
        ({"from_step": 3}, [1, 0, 0, 1, 1, 1]),
        ({"from_step": 2, "to_step": 3}, [1, 0, 1, 1, 0, 0]),
        ({"ramp": 4}, [1, 0.25, 0.5, 0.75, 1, 1]),
        ({"to_step": 4, "fade": 4, "ramp": 2}, [1, 0.5, 0.75, 0.5, 0.25, 0]),
        ({"from_step": 3, "ramp": 2}, [1, 0, 0, 0.5, 1, 1]),
        ({"to_step": 4, "fade": 2}, [1, 1, 1, 1, 0.5, 0]),
    ],
)
def test_a_schedule_begins_ends_and_ramps_by_the_numbers_of_metrics_jsonl(
    settings: dict[str, int], strengths: list[float]
) -> None:
    assert [HookConfig("name", "use", **settings).strength(step) for step in range(6)] == strengths  # type: ignore[arg-type]
