"""The page of the hooks that come with Kiara says of each what the code says, and its examples train."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from kiara_cli.config.load import load_config
from kiara_cli.core.hooks.asked import ask
from kiara_cli.core.hooks.registry import Registered, listing

PAGE = Path(__file__).parents[3] / "docs" / "hooks-builtin.md"


def row(hook: Registered) -> str:
    """Return a hook's line of the table: its arguments and the first sentence of its docstring."""
    arguments = ", ".join(f"`{argument}`" for argument in hook.arguments.values()) or "–"
    sentence = re.sub(r"\s+", " ", hook.doc.split("\n\n")[0])
    return f"| `{hook.name}` | {arguments.replace('|', 'or')} | {sentence.replace('|', 'or')} |"


@pytest.mark.parametrize("kind", ["forward", "backward", "update", "auxiliary"])
def test_the_page_says_of_each_hook_what_the_code_says(kind: str) -> None:
    rows = [row(hook) for hook in listing() if hook.kind == kind and hook.source is None]
    table = "\n".join(["| hook | arguments | what it does |", "|---|---|---|", *rows])
    assert len(rows) >= 2
    assert table in PAGE.read_text(encoding="utf-8"), f"the table of {kind} hooks is to be:\n{table}"


def test_the_examples_of_the_page_are_configs(tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) >= 2
    for number, text in enumerate(examples):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text, encoding="utf-8")
        config = load_config([str(file)], overrides=["model.n_layers=4", "model.vocab_size=64"]).config
        assert len(ask(config.hooks, config.model)) == len(yaml.safe_load(text)["hooks"])
