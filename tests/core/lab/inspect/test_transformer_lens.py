"""The same model in TransformerLens 4's bridge: exported to a folder for transformers, opened there."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from kiara_cli.core.checkpoint.files import weights_of
from kiara_cli.core.export import huggingface
from kiara_cli.core.lab.inspect.attribution import attribute
from kiara_cli.core.lab.inspect.trace import READ, Change, changed, trace
from kiara_cli.core.model.points import kind_of, lens_name, point_names, points
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from tests.core.lab.inspect.conftest import IDS, make

CLOSE = 5e-5
KINDS: dict[str, tuple[dict[str, Any], set[str]]] = {  # and the points that its bridge does not have
    "Qwen 3, the default": ({}, set()),
    "Llama": ({"qk_norm": False, "n_kv_heads": 2, "bias": True}, set()),
    "GPT-2": (
        {"positions": "learned", "norm": "layernorm", "feedforward": "gelu", "bias": True, "qk_norm": False},
        {"attention.rot_q", "attention.rot_k"},
    ),
    "GPT-NeoX": (
        {"norm": "layernorm", "bias": True, "residual": "parallel", "feedforward": "gelu_erf", "qk_norm": False},
        {"attention.rot_q", "attention.rot_k", "resid_mid"},
    ),
}


def their_values(net: Transformer, folder: Path) -> tuple[Any, Any]:
    """Export a model, open it in the bridge, and return the bridge with the values at all of its points."""
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer = BPETokenizer.fit(["The cat sat on the mat. " * 300], 300)
    with huggingface.writing(net.config, weights_of(net), tokenizer, folder):
        pass
    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu")
    return bridge, bridge.run_with_cache(torch.tensor([IDS]))[1]


def values(net: Transformer) -> dict[str, torch.Tensor]:
    """Return what passes every point."""
    seen: dict[str, torch.Tensor] = {}

    def keep(point: str) -> Change:
        return lambda value: seen.setdefault(point, value)

    with changed(net, {point: keep(point) for point in points(net)}):
        net(torch.tensor([IDS]))
    return seen


@pytest.mark.slow
@torch.no_grad()
def test_every_point_has_the_value_that_transformer_lens_has_there(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's packages
        for name, (changes, missing) in KINDS.items():
            net = make({"vocab_size": 320, **changes})
            bridge, theirs = their_values(net, tmp_path / name)
            mine = values(net)
            for point in point_names(net.config):
                if point.partition(".")[2].partition(".")[2] in missing:
                    assert lens_name(point) not in theirs, (name, point)
                    continue
                value = mine[point].transpose(1, 2) if kind_of(point).axes[1:] in ("HTC", "KTC") else mine[point]
                expected = theirs[lens_name(point)]
                finite = expected.reshape(value.shape).isfinite() & (expected.reshape(value.shape) > -1e30)
                assert bool(value[~finite].isneginf().all()), (name, point)
                difference = (value - expected.reshape(value.shape))[finite].abs().max()
                assert float(difference) <= CLOSE, (name, point, float(difference))
            check_heads(net, theirs, bridge)


def check_heads(net: Transformer, theirs: Any, bridge: Any) -> None:
    """What each head adds to a logit is what TransformerLens' stack of head results gives."""
    seen = trace(net, IDS, READ)
    parts = attribute(net, seen, len(IDS) - 1, 7)
    stacked = theirs.stack_head_results(layer=-1, pos_slice=-1, apply_ln=True)  # (L H, B, D)
    effects = (stacked[:, 0] * net.norm.weight) @ bridge.W_U[:, 7]  # which divides by the scale alone
    torch.testing.assert_close(parts.heads.flatten(), effects.float(), rtol=1e-3, atol=1e-4)
