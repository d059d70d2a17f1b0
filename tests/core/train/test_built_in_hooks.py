"""What the hooks that come with Kiara do to a training, switched on by a config alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kiara_cli.config.schema import Config
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.train.build import begin
from kiara_cli.core.train.loop import train, update
from kiara_cli.core.train.meter import Meter
from kiara_cli.core.train.plan import plan
from kiara_cli.core.train.state import Training
from kiara_cli.errors import KiaraError

ROOT = Path("checkpoints")
Configure = Callable[..., Config]
Weights = dict[str, Tensor]

PLAIN_SGD = ("train.optimizer=sgd", "train.beta1=0", "train.weight_decay=0", "train.grad_clip=0")
LR = 0.5


@pytest.fixture
def make(configure: Configure, data: Prepared) -> Callable[..., Training]:
    """Return a function from settings to a training by plain SGD, whose gradients show in its updates."""
    return lambda *words: begin(plan(configure(*PLAIN_SGD, *words), data), ROOT)


def hook(use: str, *words: str, name: str = "mine") -> tuple[str, ...]:
    """Return the settings of a hook."""
    return (f"hooks.{name}.use={use}", *(f"hooks.{name}.{word}" for word in words))


def steps(training: Training, count: int = 1) -> Weights:
    """Make updates; return how far each parameter moved."""
    before = {name: parameter.detach().clone() for name, parameter in training.model.named_parameters()}
    for _ in range(count):
        assert update(training, LR, Meter())[2] is None
        training.progress.step += 1
    return {name: parameter.detach() - before[name] for name, parameter in training.model.named_parameters()}


def in_blocks(moved: Weights) -> list[Tensor]:
    return [way for name, way in moved.items() if name.startswith("blocks.") and way.ndim == 2]


FACTORS: list[tuple[tuple[str, ...], dict[str, float]]] = [
    (hook("gradient_scale", "at=final_norm.out", "with.factor=-2"), {"head": 1.0, "blocks": -2.0, "tokens": -2.0}),
    (hook("gradient_scale", "at=blocks.0.resid_post", "with.factor=0"), {"blocks.0": 0.0, "blocks.1": 1.0}),
    (hook("layer_rates", "with.parameters=blocks", "with.factor=0.25"), {"blocks": 0.25, "tokens": 1.0}),
    (hook("layer_rates", "with.decay=0.5"), {"head": 1.0, "blocks.1": 1.0, "blocks.0": 0.5, "tokens": 0.25}),
    (hook("freeze", "with.parameters=blocks.1"), {"blocks.1": 0.0, "blocks.0": 1.0, "head": 1.0}),
    (hook("lookahead", "with.every=1", "with.share=0.25"), {"": 0.25}),
    (hook("ema_nesterov", "with.reach=1", "with.decay=0"), {"": 2.0}),
]


def test_a_hook_multiplies_an_sgd_step_as_it_says(make: Callable[..., Training]) -> None:
    plain = steps(make())
    for words, factors in FACTORS:
        for name, way in steps(make(*words)).items():
            for factor in [factor for part, factor in factors.items() if name.startswith(part)]:
                torch.testing.assert_close(way, factor * plain[name], rtol=1e-3, atol=1e-6, msg=f"{words}: {name}")


def test_transforms_of_gradients_show_in_an_sgd_step(make: Callable[..., Training]) -> None:
    training = make(*hook("centralize"))
    assert all(float(way.mean(1).abs().max()) < 1e-6 for way in in_blocks(steps(training)))
    training = make(*hook("project_gradient"))
    before = [parameter.detach().clone() for parameter in training.model.blocks.parameters() if parameter.ndim == 2]
    for way, weight in zip(in_blocks(steps(training)), before, strict=True):
        assert float((way * weight).sum(1).abs().max()) < 1e-5
    training = make(*hook("bound_norm", "with.norm=0.25", "with.exactly=true"))
    steps(training)
    rows = [parameter.detach().norm(dim=1) for parameter in training.model.blocks.parameters() if parameter.ndim == 2]
    torch.testing.assert_close(torch.cat(rows), torch.full((sum(map(len, rows)),), 0.25))


def test_a_clipped_layer_learns_less_and_a_noisy_one_otherwise(make: Callable[..., Training]) -> None:
    plain = steps(make())
    clipped = steps(make(*hook("gradient_clip", "at=final_norm.out", "with.norm=1e-4")))
    shares = [float(way.norm() / plain[name].norm()) for name, way in clipped.items() if name.startswith("blocks.")]
    assert shares[0] < 0.5
    assert shares == pytest.approx([shares[0]] * len(shares), rel=0.02)
    noisy = hook("gradient_noise", "at=blocks.*.resid_post", "with.size=0.5")
    one, same, other = (steps(make(*words)) for words in (noisy, noisy, (*noisy, "runtime.seed=7")))
    for name, way in one.items():
        assert torch.equal(way, same[name])
        assert not torch.equal(way, plain[name]) or name == "head.weight" or name.startswith("norm")
        assert not torch.equal(way, other[name])


def test_frozen_weights_learn_again_after_the_last_step_of_the_hook(make: Callable[..., Training]) -> None:
    training = make(*hook("freeze", "with.parameters=blocks.0", "to_step=2"), "train.weight_decay=0.5")
    assert {name for name, way in steps(training, 2).items() if not way.any()} == {
        name for name, _ in training.model.named_parameters() if name.startswith("blocks.0.")
    }
    assert all(bool(way.any()) for way in steps(training).values())


AUXILIARY = {
    "z_loss": (),
    "attention_entropy": (),
    "activation_sparsity": (),
    "orthogonality": (),
    "weight_norm": ("with.norm=0.5",),
    "multi_token": ("with.ahead=2",),
    "self_distillation": ("with.decay=0.5",),
}
EVERY = tuple(word for name, words in AUXILIARY.items() for word in hook(name, *words, "with.weight=W", name=name))


def values(training: Training, count: int) -> list[dict[str, float]]:
    """Make updates; return the values of the auxiliary losses at each."""
    assert training.hooks is not None
    return [training.hooks.logged() for _ in range(count) if steps(training)]


def test_what_an_auxiliary_loss_measures_falls_and_at_weight_0_it_changes_no_bit(
    make: Callable[..., Training],
) -> None:
    count, weightless = 6, make(*(word.replace("=W", "=0") for word in EVERY))
    free = values(weightless, count)
    plain = make(*hook("identity", "at=blocks.*.attention.pattern"))  # written out, as the entropy needs it
    steps(plain, count)
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(weight, weightless.model.state_dict()[name])
    for name, words in AUXILIARY.items():
        weight = 20.0 if name == "self_distillation" else 1.0
        held = [each["aux_mine_value"] for each in values(make(*hook(name, *words, f"with.weight={weight}")), count)]
        assert held[0] == pytest.approx(free[0][f"aux_{name}_value"], rel=1e-5, abs=1e-6), name
        assert held[-1] < free[-1][f"aux_{name}_value"], name
        assert held[-1] < held[0] or name == "self_distillation"  # whose teacher is the model itself at first


def test_auxiliary_losses_over_accumulated_batches_are_those_over_one(make: Callable[..., Training]) -> None:
    words = tuple(word.replace("=W", "=0.1") for word in EVERY)
    whole, parts = make(*words), make(*words, "train.batch_size=1", "train.accumulation=4", "train.loss_chunk=8")
    moved = steps(whole, 2)
    for name, way in steps(parts, 2).items():
        torch.testing.assert_close(way, moved[name], rtol=0, atol=2e-5)
    assert whole.hooks is not None
    assert parts.hooks is not None
    assert parts.hooks.logged() == pytest.approx(whole.hooks.logged(), rel=1e-3, abs=1e-5)


def test_records_hold_the_plain_loss_and_beside_it_what_was_added(make: Callable[..., Training]) -> None:
    plain, hooked = make("train.max_steps=2"), make("train.max_steps=2", *hook("z_loss", "with.weight=0.5"))
    list(train(plain))
    list(train(hooked))
    lines = [json.loads((run.run.folder / "metrics.jsonl").read_text().splitlines()[0]) for run in (plain, hooked)]
    assert lines[1]["loss"] == lines[0]["loss"]
    assert lines[1]["aux_mine"] == pytest.approx(0.5 * lines[1]["aux_mine_value"])


def test_another_tokenizer_or_a_shorter_context_makes_no_teacher(
    make: Callable[..., Training], configure: Configure, data: Prepared
) -> None:
    teacher = make("train.max_steps=1", "model.context_length=8", "model.n_layers=1")
    list(train(teacher))
    words = hook("self_distillation", f"with.teacher={teacher.run.last}")
    with pytest.raises(KiaraError, match=r"hooks\.mine: with\.teacher=.* it reads 8 tokens, the model 16"):
        make(*words)
    moved = steps(make(*words, "model.context_length=8", "model.n_layers=2"))
    assert all(bool(way.isfinite().all()) for way in moved.values())
    with pytest.raises(KiaraError, match=r"hooks\.mine: .*no_such"):
        make(*hook("self_distillation", "with.teacher=no_such"))


def test_statistics_are_recorded_at_their_interval_and_change_no_bit(make: Callable[..., Training]) -> None:
    few = ("train.max_steps=4", "train.log_interval=1", "eval.sample_tokens=0")
    watching = hook("activation_statistics", "with.interval=2", name="a") + hook(
        "update_statistics", "with.interval=4", name="u"
    )
    plain, watched = make(*few), make(*few, *watching)
    list(train(plain))
    list(train(watched))
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(weight, watched.model.state_dict()[name])
    lines = [json.loads(line) for line in (watched.run.folder / "metrics.jsonl").read_text().splitlines()]
    first, second, _, fourth = (line for line in lines if "loss" in line)
    assert not any(key.startswith("stat_") for key in first)
    assert {"stat_rms/embed.out", "stat_rms/blocks.1.resid_post", "stat_zero/blocks.0.feedforward.hidden"} <= set(
        second
    )
    assert not any(key.startswith(("stat_update", "stat_gradient")) for key in second)
    matrices = {name for name, parameter in watched.model.named_parameters() if parameter.ndim == 2}
    assert {key.partition("/")[2] for key in fourth if key.startswith("stat_update/")} == matrices
    squares = sum(value**2 for key, value in fourth.items() if key.startswith("stat_gradient/"))
    assert squares**0.5 == pytest.approx(fourth["grad_norm"], rel=0.01)  # of all but the norms' weights
    assert 0 <= fourth["stat_dead/blocks.0.feedforward.hidden"] <= fourth["stat_zero/blocks.0.feedforward.hidden"] < 1


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (
            hook("freeze", "with.parameters=blocks.7", "from_step=9"),
            r"hooks\.mine: with\.parameters=blocks\.7: the model has",
        ),
        (
            hook("centralize", "with.parameters=blocks.*.norm_1"),
            r"hooks\.mine: with\.parameters=.*: none of them is a matrix",
        ),
        (hook("lookahead", "with.every=0"), r"hooks\.mine: .*with\.every=0.* make no lookahead"),
        (hook("lookahead") + hook("lookahead", "with.every=3", name="two"), "hooks.mine and hooks.two conflict"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_first_step(
    make: Callable[..., Training], words: tuple[str, ...], cause: str
) -> None:
    with pytest.raises(KiaraError, match=cause):
        make(*words)
    assert not ROOT.exists() or not list(ROOT.iterdir())  # and no run is begun
