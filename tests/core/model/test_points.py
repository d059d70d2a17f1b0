"""Named points: TransformerLens' order and meaning, seen and changed from outside, and nothing without a hook."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.data.batches import Batch
from kiara_cli.core.generate.engine import Engine, GenerationRequest
from kiara_cli.core.loss import batch_loss
from kiara_cli.core.model.points import points
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.errors import KiaraError

CONFIG = ModelConfig(vocab_size=64, context_length=16, emb_dim=32, n_heads=4, n_kv_heads=2, n_layers=2)
IDS = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 9, 8, 7, 9, 8]])
SEGMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 1]])
BLOCK = ["resid_pre", "attention.q", "attention.k", "attention.v", "attention.rot_q", "attention.rot_k",
         "attention.scores", "attention.pattern", "attention.heads", "attention.out", "resid_mid",
         "feedforward.hidden", "feedforward.out", "resid_post"]  # fmt: skip


def make(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    net = Transformer(dataclasses.replace(CONFIG, **changes)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net


def watch(net: Transformer, *left_out: str) -> dict[str, Tensor]:
    """Return what passes each point from now on, in the order in which it does."""
    seen: dict[str, Tensor] = {}
    for name, point in points(net).items():
        if not name.endswith(left_out or ("no point",)):
            point.register_forward_hook(lambda module, inputs, output, name=name: seen.__setitem__(name, output))
    return seen


@pytest.mark.parametrize("changes", [{}, {"residual": "parallel"}, {"positions": "learned", "qk_norm": False}])
@torch.no_grad()
def test_points_are_passed_in_their_order_and_mean_what_transformer_lens_means(changes: dict[str, Any]) -> None:
    net = make(**changes)
    seen = watch(net)
    logits = net(IDS, segments=SEGMENTS)
    expected = ["embed.out", *(f"blocks.{i}.{name}" for i in range(2) for name in BLOCK), "final_norm.out", "logits"]
    if net.positions is not None:
        expected.insert(1, "pos_embed.out")
    assert list(seen) == expected
    assert [name for name in points(net) if name in seen] == expected
    first = seen["embed.out"] + seen.get("pos_embed.out", 0)
    assert torch.equal(first, seen["blocks.0.resid_pre"])
    for i in range(2):
        at = {name: seen[f"blocks.{i}.{name}"] for name in BLOCK}
        assert torch.equal(at["resid_mid"], at["resid_pre"] + at["attention.out"])
        assert torch.equal(at["resid_post"], at["resid_mid"] + at["feedforward.out"])
        assert i == 0 or torch.equal(at["resid_pre"], seen[f"blocks.{i - 1}.resid_post"])
        q, k, v = (at[f"attention.{name}"] for name in ("rot_q", "rot_k", "v"))
        k, v = (z.repeat_interleave(2, dim=1) for z in (k, v))
        scores, pattern = at["attention.scores"], at["attention.pattern"]
        visible = (SEGMENTS[:, None, :, None] == SEGMENTS[:, None, None, :]) & torch.ones(
            8, 8, dtype=torch.bool
        ).tril()
        torch.testing.assert_close(scores, (q @ k.mT / 8**0.5).masked_fill(~visible, float("-inf")))
        torch.testing.assert_close(pattern, scores.softmax(-1))
        torch.testing.assert_close(at["attention.heads"], pattern @ v)
        assert at["attention.q"].shape == (2, 4, 8, 8)
        assert at["attention.k"].shape == at["attention.v"].shape == (2, 2, 8, 8)
        rotated = net.positions is None
        lengths = [at[f"attention.{name}"].norm(dim=-1) for name in ("q", "rot_q")]
        assert torch.allclose(*lengths) == (not net.config.qk_norm)
        assert torch.equal(at["attention.q"], at["attention.rot_q"]) == (not rotated and not net.config.qk_norm)
    assert torch.equal(seen["final_norm.out"], net.norm(seen["blocks.1.resid_post"]))
    assert torch.equal(seen["logits"], logits)
    assert torch.equal(net.head(seen["final_norm.out"]), logits)


@torch.no_grad()
def test_a_hook_that_changes_nothing_changes_no_bit() -> None:
    expected = make()(IDS, segments=SEGMENTS)
    net = make()
    watch(net, "scores", "pattern")
    assert torch.equal(net(IDS, segments=SEGMENTS), expected)
    watch(net)  # scores and pattern come from plain products instead of torch's kernel: the same but for rounding
    torch.testing.assert_close(net(IDS, segments=SEGMENTS), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [f"blocks.1.{name}" for name in BLOCK] + ["embed.out", "final_norm.out", "logits"])
def test_what_a_hook_returns_takes_the_place_in_training_evaluation_and_generation(name: str) -> None:
    net, before = make(), make()
    points(net)[name].register_forward_hook(lambda module, inputs, output: output.flip(-1).roll(1, dims=-1))
    batch = Batch.of(IDS, IDS)
    with torch.no_grad():
        losses = [float(batch_loss(model, batch)[1]) for model in (before, net)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)
    engine = Engine(net, Runtime(torch.device("cpu"), "fp32", 1))
    config = GenerateConfig(max_new_tokens=3, temperature=0)
    text = [1, 2, 3]
    for token in engine.follow(engine.submit(GenerationRequest(text[:], config, logprobs=0))):
        with torch.no_grad():
            scores = net(torch.tensor([text]))[0, -1].log_softmax(-1)
        assert (token.id, token.logprob) == (int(scores.argmax()), pytest.approx(float(scores.max()), abs=1e-4))
        text.append(token.id)
    objective, _ = batch_loss(net, batch)
    objective.backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None for weight in net.parameters())


def test_attention_that_was_exchanged_has_no_scores_to_hook() -> None:
    net = make()
    attention = net.blocks[1].attention
    attention.attend = lambda q, k, v, visible, drop_rate: q  # type: ignore[union-attr, assignment]
    net(IDS)
    attention.pattern.register_forward_hook(lambda *_: None)  # type: ignore[operator, union-attr]
    with pytest.raises(
        KiaraError,
        match="attention of layer 1 was exchanged: .* hook another point, such as blocks.1",
    ):
        net(IDS)
