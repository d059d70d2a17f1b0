"""`kiara inspect --points` and `--list-hooks`: of a checkpoint, of a config, with a person's own file."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands.conftest import Kiara

FILE = '''from kiara_cli.core.hooks.registry import forward

@forward
def mine(x, at, size: float = 1.0):
    """Do what I want."""
'''


def test_the_points_of_a_checkpoint_and_of_a_config_are_listed_and_the_hooks_there_are(
    kiara: Kiara, trained: Path
) -> None:
    lines = kiara("inspect", "checkpoints/text/best.pt", "--points", "--json").out.splitlines()
    rows = {row["point"]: row for row in map(json.loads, lines)}
    assert len(rows) == 2 * 14 + 3
    assert rows["blocks.1.attention.pattern"] == {
        "point": "blocks.1.attention.pattern", "shape": "(B, 4, T, S)", "holds": "after the softmax",
        "leaves": "decode, attention", "transformer_lens": "blocks.1.attn.hook_pattern",
    }  # fmt: skip
    shown = kiara("inspect", "--points", "model.n_layers=1", "model.positions=learned")
    assert "pos_embed.out" in shown.out
    assert "blocks.0.feedforward.hidden" in shown.out
    assert "blocks.1" not in shown.out
    assert "written out" in shown.err
    Path("mine.py").write_text(FILE)
    told = kiara("inspect", "--list-hooks", "--hooks", "mine.py").out
    assert "scale(factor: number)  [forward]\n    Multiply it with a factor." in told
    assert told.rstrip().endswith("mine(size: number = 1.0)  [forward, from mine.py]\n    Do what I want.")
    (row,) = [row for line in kiara("inspect", "--list-hooks", "--json").out.splitlines()
              if (row := json.loads(line))["hook"] == "mean"]  # fmt: skip
    assert row["arguments"] == [
        {"name": "over", "type": "all or batch or positions or run", "required": False, "default": "all"}
    ]
    assert "nothing to look at" in kiara("inspect").mistake
