"""Hooks in a training: what they change, that they are called once, what they cost when there are none, resuming."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kiara_cli.config.load import load_config
from kiara_cli.core.checkpoint import files
from kiara_cli.core.data.prepare import Prepared
from kiara_cli.core.hooks import registry
from kiara_cli.core.hooks.context import At, LossContext, UpdateContext
from kiara_cli.core.hooks.registry import auxiliary, forward, update
from kiara_cli.core.model import fused
from kiara_cli.core.model.feedforward import Gated
from kiara_cli.core.runtime.native import CompilerError
from kiara_cli.core.train import feed
from kiara_cli.core.train import plan as planning
from kiara_cli.core.train.build import begin
from kiara_cli.core.train.events import Evaluated, Stepped
from kiara_cli.core.train.loop import train
from kiara_cli.core.train.plan import plan
from kiara_cli.core.train.resume import plan_resumed, resume
from kiara_cli.core.train.state import Training
from kiara_cli.errors import KiaraError

ROOT = Path("checkpoints")
NOT_WRITTEN_OUT = "[embed.out, blocks.*.resid_*, 'blocks.*.attention.{q,k,v,rot_q,rot_k,heads,out}', " \
    "blocks.*.feedforward.*, final_norm.out, logits]"  # fmt: skip
QUICK = "eval.sample_tokens=0", "train.checkpoint_interval=100"
SEEN: Counter[tuple[int, int, str, bool]] = Counter()


@pytest.fixture(autouse=True)
def _mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the hooks of these tests for one test."""
    registry.listing()
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    SEEN.clear()

    @forward
    def touch(x: Tensor, at: At) -> Tensor:
        assert x.ndim == len(at.axes)
        if at.training:
            SEEN[at.step, at.number, at.point, at.again] += 1
        return x.clone()

    @forward
    def wrong(x: Tensor, at: At, how: str) -> Any:
        late = {"late": at.step == 3 and at.training}.get(how)
        return {"shape": x[:1], "type": x.double(), "nan": x / 0, "late": x / 0 if late else x.clone()}[how]

    @update
    class Halve:
        """Halve the gradients, and note their norm."""

        def __init__(self, factor: float = 0.5) -> None:
            self.factor, self.updates = factor, 0

        def gradients(self, named: dict[str, Tensor], context: UpdateContext) -> None:
            for weight in named.values():
                if weight.grad is not None:
                    weight.grad.mul_(self.factor)

        def after_step(self, named: dict[str, Tensor], context: UpdateContext) -> None:
            self.updates += 1
            context.log("updates", float(self.updates))

        def state_dict(self) -> dict[str, int]:
            return {"updates": self.updates}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.updates = state["updates"]

    @auxiliary(reads=("blocks.*.resid_post",))
    def size(context: LossContext) -> Tensor:
        assert context.points.keys() == {"blocks.0.resid_post", "blocks.1.resid_post"}
        return torch.stack([x.float().square().mean() for x in context.points.values()]).mean()


def run(configure: Any, data: Prepared, *words: str, name: str = "run") -> tuple[Training, list[Any]]:
    training = begin(plan(configure(*QUICK, *words), data), ROOT, name=name)
    return training, list(train(training))


def losses(events: list[Any]) -> list[float]:
    found = [event.loss if isinstance(event, Stepped) else event.metrics.loss for event in events
             if isinstance(event, Stepped | Evaluated)]  # fmt: skip
    assert len(found) > 3
    return found


def same_weights(one: Training, other: Training) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "words",
    [
        ("model.n_kv_heads=2", "train.accumulation=2", "train.ema_decay=0.9"),
        ("train.recompute=true", "model.drop_rate=0.1", "model.positions=learned", "model.tied_head=true"),
        ("runtime.dtype=bf16", "runtime.native=true", "model.drop_rate=0.1", "model.emb_dim=64"),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_hook_that_changes_nothing_changes_no_bit_and_is_called_once_a_forward_pass(
    configure: Any, data: Prepared, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "PIECE", 32)  # two pieces a batch
    if "runtime.native=true" in words:
        try:
            fused.load()
        except CompilerError as error:
            pytest.skip(str(error))
    words = (*words, "train.max_steps=4", "train.eval_interval=2")
    expected, before = run(configure, data, *words)
    hooked, after = run(configure, data, *words, "hooks.all.use=touch", f"hooks.all.at={NOT_WRITTEN_OUT}")
    assert losses(after) == losses(before)
    assert same_weights(hooked, expected)
    for block in hooked.model.blocks:
        assert ("place" in vars(block.attention)) == ("runtime.native=true" in words)  # the C loop is there
    passes = {(step, number) for step, number, _, _ in SEEN}
    assert len(passes) == 4 * (4 if "train.accumulation=2" in words else 2)
    names = {point for _, _, point, _ in SEEN}
    assert len(names) == 2 * 12 + 3
    assert set(SEEN.values()) == {1}
    once, again = (sum(n for key, n in SEEN.items() if key[3] is second) for second in (False, True))
    assert once == len(passes) * len(names)
    assert (again > 0) == ("train.recompute=true" in words)


def test_a_hook_on_scores_or_pattern_writes_that_layer_out_alone_and_says_what_it_changes(
    configure: Any, data: Prepared, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "kiara.hooks")
    _, expected = run(configure, data, "train.max_steps=4")
    hooked, found = run(
        configure, data, "train.max_steps=4", "hooks.a.use=touch",
        "hooks.a.at=[blocks.1.attention.scores, blocks.1.attention.pattern]",
    )  # fmt: skip
    assert losses(found) == pytest.approx(losses(expected), rel=1e-5)
    (said,) = [record.getMessage() for record in caplog.records if "written out" in record.getMessage()]
    assert said.startswith("blocks.1.attention is written out, as its scores or pattern have a hook")
    assert float(said.rpartition(" ")[2].rstrip(".")) < 1e-5
    assert "compile" in hooked.plan.how


def test_no_hook_runs_no_code_of_hooks(configure: Any, data: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("kiara_cli.core.hooks")]:
        monkeypatch.delitem(sys.modules, name)
    training, _ = run(configure, data, "train.max_steps=2")
    assert not [name for name in sys.modules if name.startswith("kiara_cli.core.hooks")]
    assert training.hooks is None
    assert "states" not in vars(training.model)
    assert not any(module._forward_hooks for module in training.model.modules())


def test_one_head_is_taken_out_from_yaml_alone_and_the_loss_follows(configure: Any, data: Prepared) -> None:
    Path("quiet.yaml").write_text("hooks:\n  quiet: {use: suppress, at: blocks.0.attention.heads, heads: 2}\n")
    section = load_config(["quiet.yaml"]).config.hooks
    plain = configure(*QUICK, "train.max_steps=3", "train.optimizer=sgd", "train.weight_decay=0")
    training = begin(plan(configure(hooks=section, train=plain.train, eval=plain.eval), data), ROOT)
    columns = slice(2 * 8, 3 * 8)
    with torch.no_grad():  # the output matrix starts at zero, and would hide the heads
        for block in training.model.blocks:
            block.attention.out.weight.normal_(std=0.5)  # type: ignore[union-attr]
    out = training.model.blocks[0].attention.out.weight  # type: ignore[union-attr]
    others = training.model.blocks[1].attention.out.weight  # type: ignore[union-attr]
    before, moved = out.detach().clone(), others.detach().clone()
    *_, evaluated = [event for event in train(training) if isinstance(event, Evaluated)]
    assert torch.equal(out[:, columns], before[:, columns])  # no gradient comes to what the head would write
    assert not torch.equal(out[:, : 2 * 8], before[:, : 2 * 8])
    assert not torch.equal(others[:, columns], moved[:, columns])
    model = files.load(training.run.last).make_model(training.config.model)
    batch = next(iter(training.feed._batcher.batch(step) for step in range(1)))  # any text
    whole = model(batch.inputs)
    with torch.no_grad():
        model.blocks[0].attention.out.weight[:, columns] = 0  # type: ignore[index, union-attr]
        without = model(batch.inputs)
        torch.testing.assert_close(training.model(batch.inputs), without)
        assert (whole - without).abs().max() > 1e-3
    assert evaluated.metrics.loss > 0


def test_what_is_computed_again_for_its_gradients_draws_the_same_noise(configure: Any, data: Prepared) -> None:
    words = (
        "hooks.n.use=noise",
        "hooks.n.at=blocks.*.attention.out",
        "hooks.n.with.deviation=0.3",
        "train.max_steps=3",
    )
    stored, again = (run(configure, data, *words, f"train.recompute={word}")[0] for word in ("false", "true"))
    assert same_weights(stored, again)
    assert not same_weights(stored, run(configure, data, "train.max_steps=3")[0])


STATEFUL = (
    "hooks.n.use=noise", "hooks.n.at=blocks.*.resid_mid", "hooks.n.with.deviation=0.1", "hooks.n.ramp=5",
    "hooks.m.use=mean", "hooks.m.at=blocks.0.attention.heads", "hooks.m.heads=1", "hooks.m.with.over=run",
    "hooks.h.use=Halve", "hooks.s.use=size", "hooks.s.with.weight=0.01", "hooks.s.from_step=2",
    "train.accumulation=2", "train.log_interval=3", "train.recompute=true", "train.max_steps=6",
)  # fmt: skip


def test_a_resumed_run_with_hooks_is_the_straight_run_to_the_bit(configure: Any, data: Prepared) -> None:
    straight, _ = run(configure, data, *STATEFUL, name="straight")
    config = configure(*QUICK, *STATEFUL)
    stopped = begin(plan(config, data), ROOT, name="stopped")
    list(train(stopped, should_stop=lambda: stopped.progress.step == 2))
    checkpoint = files.load(stopped.run.last)
    assert checkpoint.config["hooks"] == config.hooks
    resumed = resume(plan_resumed(config, checkpoint, data), checkpoint, stopped.run)
    list(train(resumed))
    assert same_weights(resumed, straight)
    clock = {"seconds", "tokens_per_second", "flops_per_second", "fraction_of_peak", "memory_bytes", "val_seconds"}
    records = [
        [{key: value for key, value in json.loads(line).items() if key not in clock and not key.endswith("_ms")}
         for line in (training.run.folder / "metrics.jsonl").read_text().splitlines()]
        for training in (straight, resumed)
    ]  # fmt: skip
    assert records[0] == records[1]
    assert records[0][0]["hooks.h.updates"] == 2.0  # the mean of 1, 2, 3
    first, last = records[0][0], [record for record in records[0] if "loss" in record][-1]
    assert last["hooks.h.updates"] == 5.0
    assert first["aux_s"] == pytest.approx(0.01 * first["aux_s_value"])
    assert last["aux_s_value"] != first["aux_s_value"]


def test_an_update_hook_changes_an_sgd_step_and_an_auxiliary_loss_joins_the_objective(
    configure: Any, data: Prepared
) -> None:
    words = "train.max_steps=1", "train.optimizer=sgd", "train.grad_clip=0", "train.weight_decay=0", "train.beta1=0"
    start = begin(plan(configure(*QUICK, *words), data), ROOT).model.state_dict()
    one, whole = run(configure, data, *words)
    half, halved = run(configure, data, *words, "hooks.h.use=Halve")
    for name, weight in one.model.named_parameters():
        moved, less = (weight - start[name]).detach(), (half.model.get_parameter(name) - start[name]).detach()
        torch.testing.assert_close(less, moved / 2, rtol=1e-3, atol=1e-6)
    norms = [event.grad_norm for event in (*whole, *halved) if isinstance(event, Stepped)]
    assert norms[1] == pytest.approx(norms[0] / 2, rel=1e-3)
    _, found = run(configure, data, "train.max_steps=6", "train.lr=0.02", "hooks.s.use=size", "hooks.s.with.weight=5")
    values = [event.hooks["aux_s_value"] for event in found if isinstance(event, Stepped)]
    assert values[-1] < 0.8 * values[0]
    assert found[0].hooks["aux_s"] == pytest.approx(5 * values[0])


@pytest.mark.parametrize(("calls", "said"), [(0, "was never called"), (2, "was called 2 times")])
def test_a_hook_that_is_not_called_once_in_its_first_step_ends_the_run_before_the_weights_change(
    configure: Any, data: Prepared, monkeypatch: pytest.MonkeyPatch, calls: int, said: str
) -> None:
    def passing(self: Any, x: Tensor) -> Tensor:
        x = self.gate(self.gate_up(x))
        for _ in range(calls):
            x = self.hidden(x)
        out: Tensor = self.down(x)
        return out

    monkeypatch.setattr(Gated, "forward", passing)
    at = "hooks.lost.use=touch", "hooks.lost.at=blocks.*.feedforward.hidden"
    for step in (1, 3):
        training = begin(plan(configure(*QUICK, *at, f"hooks.lost.from_step={step}"), data), ROOT)
        start = {name: weight.clone() for name, weight in training.model.state_dict().items()}
        with pytest.raises(
            KiaraError,
            match=rf"hooks.lost {said} at blocks.0.feedforward.hidden in step {step} .*blocks.1.feedforward.hidden",
        ):
            list(train(training))
        assert training.progress.step == step - 1
        unchanged = all(torch.equal(start[name], weight) for name, weight in training.model.state_dict().items())
        assert unchanged == (step == 1)
        assert training.run.facts()["status"] == "failed"


@pytest.mark.parametrize(
    ("how", "step", "said"),
    [
        ("shape", 1, r"returned the shape \(1, 16, 32\), not \(4, 16, 32\); return a number for each"),
        ("type", 1, r"returned torch.float64 on cpu, not torch.float32 on cpu; end with .to\(x\)"),
        ("nan", 1, "returned numbers that are not finite; look for a division by zero"),
        ("late", 3, "returned numbers that are not finite; look for a division by zero"),
    ],
)
def test_a_result_that_cannot_be_used_ends_the_run_naming_hook_point_and_step(
    configure: Any, data: Prepared, how: str, step: int, said: str
) -> None:
    words = "hooks.bad.use=wrong", "hooks.bad.at=blocks.1.resid_mid", f"hooks.bad.with.how={how}"
    training = begin(plan(configure(*QUICK, *words, "train.checkpoint_interval=1"), data), ROOT)
    with pytest.raises(KiaraError, match=rf"hooks.bad at blocks.1.resid_mid in step {step} {said}"):
        list(train(training))
    assert training.progress.step == step - 1
    if step > 1:
        saved = files.load(training.run.last).model
        assert all(torch.equal(saved[name], weight) for name, weight in training.model.state_dict().items())


def test_torch_compile_is_off_with_a_hook_on_the_model_and_that_is_said(
    configure: Any, data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "decide_compile", lambda wanted, device, seconds: (True, "it saves time"))
    hook = "hooks.a.use=touch", "hooks.a.at=logits"
    planned = plan(configure(*hook, "runtime.compile=true", "runtime.native=false"), data)
    assert planned.config.runtime.compile is False
    assert planned.unmet == {"compile": "hooks.a is on the model, and a compiled model would not call it"}
    assert "not compiled (hooks.a is on the model" in planned.how
    assert plan(configure("hooks.h.use=Halve", "runtime.native=false"), data).config.runtime.compile is True
