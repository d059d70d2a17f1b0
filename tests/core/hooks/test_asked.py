"""What a config asks for is checked against the hooks there are and the model, before anything is built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kiara_cli.config.load import load_config
from kiara_cli.config.model import ModelConfig
from kiara_cli.core.hooks.asked import ask
from kiara_cli.core.hooks.loading import check_same, sources_of, use_files
from kiara_cli.core.hooks.registry import forget_files, listing
from kiara_cli.core.hooks.select import Select, matching, shape_of
from kiara_cli.core.model.points import lens_name
from kiara_cli.errors import KiaraError

MODEL = ModelConfig(vocab_size=64, context_length=16, emb_dim=32, n_heads=4, n_kv_heads=2, n_layers=3)
QUIET = "hooks.quiet.use=suppress", "hooks.quiet.at=blocks.*.resid_mid"
FILE = '''from typing import Literal
from kiara_cli.core.hooks.registry import forward

@forward
def mine(x, at, size: float = 1.0, how: Literal["a", "b"] = "a"):
    """Do what I want."""
'''


def section(*words: str) -> dict[str, dict[str, object]]:
    return load_config((), words).config.hooks


def test_patterns_name_points_and_selectors_parts_of_them() -> None:
    assert matching(["blocks.{0,2}.attention.heads", "logits"], MODEL) == [
        "blocks.0.attention.heads", "blocks.2.attention.heads", "logits",
    ]  # fmt: skip
    assert len(matching(["blocks.*.attention.*"], MODEL)) == 3 * 9
    assert matching(["blocks.{1-2}.resid_pre"], MODEL) == ["blocks.1.resid_pre", "blocks.2.resid_pre"]
    assert shape_of("blocks.1.attention.k", MODEL) == "(B, 2, T, 8)"
    assert lens_name("blocks.1.feedforward.hidden") == "blocks.1.mlp.hook_post"
    for select in (Select(heads=(1, -1)), Select(positions=(-16, 15)), Select(channels=(7, -8))):
        select.check("blocks.0.attention.k", MODEL)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("hooks.quiet.use=supress",), "hooks.quiet: there is no hook 'supress'; did you mean 'suppress'?"),
        (("hooks.quiet.use=mine_own",), "if it is in a file of yours, give --hooks FILE"),
        (("hooks.quiet.at=blocks.*.resid_middle",), "did you mean 'blocks.*.resid_mid'? kiara inspect --points"),
        (("hooks.quiet.at=blocks.3.resid_mid",), "did you mean one of the blocks 0 to 2?"),
        (("hooks.quiet.at=blocks.1.attn.hook_z",), "did you mean 'blocks.1.attention.heads'?"),
        (("hooks.quiet.at=blocks.*.attn.hook_z",), "did you mean 'blocks.*.attention.heads'?"),
        (("hooks.quiet.at=pos_embed.out",), "there is no point 'pos_embed.out' in this model"),
        (("hooks.quiet.heads=1",), "heads: blocks.0.resid_mid has no heads; its shape is (B, T, 32)"),
        (("hooks.quiet.channels=[0, 32]",), "32 is not there, blocks.0.resid_mid has 32 channels; give -32 to 31"),
        (("hooks.quiet.at=blocks.0.attention.k", "hooks.quiet.heads=2"), "has 2 heads; give -2 to 1"),
        (("hooks.quiet.use=scale",), "hooks.quiet: scale needs the argument factor: number; set with.factor"),
        (("hooks.quiet.use=scale", "hooks.quiet.with.fcator=1"), "no argument 'fcator'; did you mean 'factor'?"),
        (("hooks.quiet.use=scale", "hooks.quiet.with.factor=much"), "with.factor=much is not a valid value"),
        (("hooks.quiet.use=mean", "hooks.quiet.with.over=time"), "expected all or batch or positions or run, 'all'"),
        (("hooks.quiet.use=set", "hooks.quiet.with.value=[1, 2, 3]"), "has 3 numbers, which do not fit"),
        (("hooks.b.use=set", "hooks.b.at=blocks.1.resid_mid", "hooks.b.with.value=1"),
         "hooks.quiet and hooks.b conflict: both put something else in the place of blocks.1.resid_mid"),
        (("hooks.quiet.use=lookahead",), "lookahead acts on weights, not at blocks.*.resid_mid; leave `at` out"),
        (("hooks.b.use=scale", "hooks.b.with.factor=1"), "the forward hook scale does not say where it acts"),
        (("hooks.b.use=centralize", "hooks.c.use=centralize"), "hooks.b and hooks.c conflict: both use centralize"),
        (("hooks.b.use=centralize", "hooks.b.heads=1"), "heads: the update hook centralize selects nothing"),
    ],
)  # fmt: skip
def test_what_is_asked_for_wrongly_is_one_line_that_names_the_hook(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(KiaraError) as caught:
        ask(section(*QUIET, *words), MODEL)
    assert message in str(caught.value)
    assert "hooks." in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ("hooks.b.at=blocks.1.resid_post",),
        ("hooks.b.at=blocks.1.resid_mid", "hooks.b.channels=1", "hooks.quiet.channels=[0, 2]"),
        ("hooks.b.at=blocks.1.resid_mid", "hooks.b.from_step=6", "hooks.quiet.to_step=5"),
    ],
)
def test_two_that_replace_are_welcome_where_they_do_not_meet(words: tuple[str, ...]) -> None:
    assert len(ask(section(*QUIET, "hooks.b.use=set", "hooks.b.with.value=1", *words), MODEL)) == 2


def test_what_depends_on_the_vocabulary_is_asked_once_it_is_known() -> None:
    words = "hooks.a.use=set", "hooks.a.at=logits", f"hooks.a.with.value={[0] * 64}", "hooks.a.channels=63"
    for vocab_size in (None, 64):
        assert len(ask(section(*words), replace(MODEL, vocab_size=vocab_size))) == 1
    with pytest.raises(KiaraError, match="with.value has 64 numbers, which do not fit logits; give 1 or 128"):
        ask(section(*words), replace(MODEL, vocab_size=128))


def test_a_persons_file_is_run_recorded_by_its_hash_and_known_by_its_hooks() -> None:
    Path("mine.py").write_text(FILE)
    (hook,) = use_files(["mine.py"])
    assert list(map(str, hook.arguments.values())) == ["size: number = 1.0", "how: a or b = 'a'"]
    assert (hook.doc, hook in listing()) == ("Do what I want.", True)
    asked = section("hooks.x.use=mine", "hooks.x.at=logits")
    assert ask(asked, MODEL)[0].hook is hook
    before = sources_of(asked)
    check_same(before, asked, False)
    Path("mine.py").write_text(FILE + "\n# changed\n")
    use_files(["mine.py"])
    assert sources_of(asked) != before
    with pytest.raises(KiaraError, match="started with the hooks of mine.py, and --hooks gives other code"):
        check_same(before, asked, False)
    check_same(before, asked, True)
    forget_files()
    assert hook not in listing()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = x / 0\n", "--hooks mine.py, line 2: ZeroDivisionError: division by zero"),
        ("def f(:\n", "--hooks mine.py, line 1: SyntaxError"),
        ("import not_there\n", "--hooks mine.py, line 1: ModuleNotFoundError: No module named 'not_there'"),
        ("raise SystemExit(3)\n", "--hooks mine.py, line 1: SystemExit: 3"),
        ("x = 1\n", "--hooks mine.py registers no hook; put @forward"),
        (FILE.replace("mine", "scale"), "a hook 'scale' is registered already, by Kiara; give it another name"),
        (FILE + FILE, "a hook 'mine' is registered already, in mine.py"),
        (FILE.replace("size: float", "size"), "argument 'size' without a type that a config can give"),
        (FILE.replace("float", "list[dict]"), "argument 'size' without a type that a config can give"),
        (FILE.replace("at, size: float = 1.0, how: Literal", "*, how: Literal"), "it is called with x, at"),
        (FILE.replace("x, at, ", "x, "), "it is called with x, at"),
        ("from kiara_cli.core.hooks.registry import update\n@update\ndef f():\n  pass", "'f' is no class"),
        (
            "from kiara_cli.core.hooks.registry import update\n@update\nclass F:\n  pass",
            "'F' does nothing; write one",
        ),
        ("from kiara_cli.core.hooks.registry import forward\n@forward\nclass F:\n  pass", "'F' cannot be called"),
    ],
)
def test_a_file_that_fails_is_one_line_with_its_own_line_and_leaves_no_hook(text: str, message: str) -> None:
    Path("mine.py").write_text(text)
    with pytest.raises(KiaraError) as caught:
        use_files(["mine.py"])
    assert message in str(caught.value)
    forget_files()
    assert all(hook.source is None for hook in listing())


def test_every_hook_of_kiara_has_a_docstring_and_typed_arguments() -> None:
    hooks = listing()
    assert {hook.kind for hook in hooks} >= {"forward", "backward", "update"}
    for hook in hooks:
        assert hook.doc, hook.name
        assert all(argument.words for argument in hook.arguments.values())
