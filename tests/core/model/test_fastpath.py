"""What a fast path does not know takes the plain path, and says why; never a wrong number."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.modules.module as torch_module
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.generate.engine import Engine, Options
from kiara_cli.core.model import fastpath, fused
from kiara_cli.core.model.fastpath import unknown_settings, why_plain
from kiara_cli.core.model.feedforward import RMSNorm
from kiara_cli.core.model.fused import put_loops
from kiara_cli.core.model.points import points
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize.apply import in_dtype, quantize
from kiara_cli.core.quantize.scheme import Scheme
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.train.recompute import recompute_blocks

CONFIG = ModelConfig(vocab_size=64, context_length=32, emb_dim=32, n_heads=4, n_layers=2)
RUNTIME = Runtime(torch.device("cpu"), "fp32", 1)


class Doubled(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Adapter(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.5


class Bigger(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1.5 * x


def change(path: str, value: Any) -> Callable[[Transformer], None]:
    """Return what exchanges an attribute of a model."""
    owner, _, name = path.rpartition(".")
    return lambda model: setattr(model.get_submodule(owner), name, value(model) if callable(value) else value)


def hook(path: str, kind: str = "forward_hook") -> Callable[[Transformer], None]:
    changes: dict[str, Callable[..., Any]] = {
        "forward_hook": lambda module, inputs, output: -1.5 * output,
        "forward_pre_hook": lambda module, inputs: (1.5 * inputs[0], *inputs[1:]),
        "full_backward_hook": lambda module, into, out: None,
    }
    return lambda model: getattr(model.get_submodule(path), f"register_{kind}")(changes[kind])


def loud(model: Transformer) -> Callable[..., Tensor]:
    attend = model.blocks[1].attention.attend  # type: ignore[union-attr]
    return lambda *inputs: 1.5 * attend(*inputs)  # type: ignore[operator]


def shifted(model: Transformer) -> Callable[..., Any]:
    place = model.blocks[1].attention.place  # type: ignore[union-attr]
    return lambda qkv, rotary: place(qkv + 1, rotary)  # type: ignore[operator]


def parametrized(model: Transformer) -> None:
    parametrize.register_parametrization(model.get_submodule("blocks.0.attention.qkv"), "weight", Bigger())


ATTENTION, FEEDFORWARD = "blocks.1.attention", "blocks.1.feedforward"
CHANGES: dict[str, tuple[Callable[[Transformer], Any], str]] = {
    "a norm": (change("blocks.0.norm_1", lambda _: Doubled(32, eps=1e-6)), "norm_1 is a Doubled, not a RMSNorm"),
    "the final norm": (change("norm", lambda _: Doubled(32, eps=1e-6)), "norm is a Doubled"),
    "a query norm": (change(f"{ATTENTION}.q_norm", lambda _: Doubled(8, eps=1e-6)), "q_norm is a Doubled"),
    "a key norm's function": (
        change(f"{ATTENTION}.k_norm.forward", lambda _: lambda x: 2 * x),
        "has another forward",
    ),
    "a norm's epsilon": (change("blocks.1.norm_2.eps", 0.5), "norm_2 has eps=0.5, not 1e-06"),
    "a gate": (change(f"{FEEDFORWARD}.gate", lambda _: lambda x: 2 * x[..., :96]), "feedforward has another gate"),
    "an adapter": (change(f"{ATTENTION}.qkv", lambda _: Adapter(32, 96, bias=False)), "qkv is a Adapter"),
    "a head with a bias": (change("head", lambda _: nn.Linear(32, 64)), "head has weights of other names or shapes"),
    "attention": (change(f"{ATTENTION}.attend", loud), "attention has another attend"),
    "a place": (change(f"{ATTENTION}.place", shifted), "has another place"),
    "dropout": (change("blocks.0.dropout", lambda _: Bigger()), "dropout is a Bigger"),
    "a point": (change("blocks.0.resid_mid", lambda _: Bigger()), "resid_mid is a Bigger, not a Point"),
    "positions": (
        change("rotary.forward", lambda m: lambda p: m.rotary.table[:, 0 * p]),
        "rotary has another forward",
    ),
    "a weight by a function": (parametrized, "qkv is a ParametrizedLinear"),
    "a module more": (lambda model: model.blocks[0].add_module("more", Bigger()), "more is not of this model"),
    "the model's own function": (change("states", lambda m: lambda *a: -Transformer.states(m, *a)), "states"),
    "a hook on the head": (hook("head"), "head has a hook"),
    "a hook on a point": (hook("blocks.0.attention.heads"), "heads has a hook"),
    "a hook on the pattern": (hook("blocks.1.attention.pattern"), "pattern has a hook"),
    "a hook before the feedforward": (hook(FEEDFORWARD, "forward_pre_hook"), "feedforward has a hook"),
    "a hook on the logits": (hook("logits"), "logits has a hook"),
    "a hook on the way back": (hook("blocks.0.norm_1", "full_backward_hook"), "norm_1 has a hook"),
}


@pytest.fixture
def net() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def greedy(engine: Engine) -> list[int]:
    return [token.id for token in engine.generate([1, 2, 3], GenerateConfig(max_new_tokens=20, temperature=0))]


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_model_takes_the_plain_path_and_says_why(net: Transformer, name: str) -> None:
    assert why_plain(net) is None
    before = greedy(Engine(net, RUNTIME))
    alter, reason = CHANGES[name]
    alter(net)
    net.eval()
    assert reason in str(why_plain(net))
    engine = Engine(net, RUNTIME, options=Options(native="auto"))
    assert engine.backend.name == f"plain PyTorch, because {why_plain(net)}"
    found = greedy(engine)
    assert found == greedy(Engine(net, RUNTIME, options=Options(fast=False)))
    assert (found == before) == (name in ("a module more", "a hook on the way back")), "otherwise it proves nothing"


def test_a_model_of_another_class_or_with_unknown_settings_takes_the_plain_path(net: Transformer) -> None:
    class Other(Transformer):
        pass

    assert why_plain(Other(CONFIG)) == "the model is a Other"
    for settings in (
        {"residual": "parallel"},
        {"rotary_share": 0.5},
        {"feedforward": "geglu"},
        {"norm": "rmsnorm_1p"},
    ):
        (name,) = settings
        model = Transformer(dataclasses.replace(CONFIG, **settings))  # type: ignore[arg-type]
        assert why_plain(model) == f"the fast paths do not know model.{name}={settings[name]}"


def test_a_setting_that_nobody_has_told_of_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(fastpath.KNOWN, "rope_theta")
    assert unknown_settings(CONFIG) == []
    assert unknown_settings(dataclasses.replace(CONFIG, rope_theta=500.0)) == ["rope_theta"]


def test_a_hook_on_all_modules_takes_the_plain_path(net: Transformer) -> None:
    handle = torch_module.register_module_forward_hook(lambda module, inputs, output: None)
    try:
        assert why_plain(net) == "there is a hook on all modules"
    finally:
        handle.remove()


def test_whatever_kiara_does_to_a_model_itself_stays_fast(net: Transformer, every_model: list[ModelConfig]) -> None:
    for config in every_model[::7]:
        assert (why_plain(Transformer(config)) is None) == (not unknown_settings(config))
    for bits in (8, 4):
        small = copy.deepcopy(net)
        list(quantize(small, Scheme(bits, "rtn", 32, bits, bits)))
        assert why_plain(small) is None
    assert why_plain(in_dtype(net, torch.bfloat16)) is None
    assert why_plain(recompute_blocks(copy.deepcopy(net))) is None
    if shutil.which("cc"):
        loops = put_loops(copy.deepcopy(net), fused.load())
        assert why_plain(loops) is None
        copied = in_dtype(loops, torch.bfloat16)  # as an engine makes it in the middle of a training
        expected, ids = in_dtype(net, torch.bfloat16), torch.tensor([[1, 2]])
        assert (copied(ids) - expected(ids)).norm() < 0.03 * expected(ids).norm()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_hook_that_an_engine_gets_later_is_followed_and_its_end_as_well(net: Transformer, dtype: Any) -> None:
    engine = Engine(net, Runtime(torch.device("cpu"), dtype, 1))
    before, point = greedy(engine), points(net)["blocks.0.feedforward.out"]
    handle = point.register_forward_hook(lambda module, inputs, output: -4 * output)
    hooked = greedy(engine)
    assert hooked != before
    assert hooked == greedy(Engine(net, engine.runtime))
    assert engine.backend.plain_because == "blocks.0.feedforward.out has a hook"
    handle.remove()
    nn.Identity().register_forward_hook(lambda *_: None)  # an engine looks again when anything gets a hook
    assert greedy(engine) == before
    assert engine.backend.fast


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no compiler")
@pytest.mark.parametrize(
    "name",
    [
        "a norm",
        "a query norm",
        "a key norm's function",
        "a gate",
        "attention",
        "a place",
        "dropout",
        "a hook on a point",
    ],
)
def test_fused_loops_leave_alone_what_was_changed(net: Transformer, name: str) -> None:
    plain = copy.deepcopy(net)
    for model in (net, plain):
        CHANGES[name][0](model)
    put_loops(net, fused.load())
    ids = torch.randint(64, (2, 32))
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = net.train()(ids), plain.train()(ids)
    right = plain(ids)
    assert (found - right).norm() < 1.5 * (expected - right).norm() + 0.01 * right.norm()


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no compiler")
@pytest.mark.parametrize("name", ["q", "rot_q", "scores", "pattern", "heads"])
def test_a_hook_on_a_fused_model_sees_and_changes_what_it_does_on_a_plain_one(net: Transformer, name: str) -> None:
    fused_net = put_loops(copy.deepcopy(net), fused.load())
    ids, results = torch.randint(64, (2, 32)), []
    for model in (net, fused_net):
        seen: list[Tensor] = []
        point = points(model)[f"blocks.1.attention.{name}"]
        point.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output) or 0.5 * output)
        with torch.autocast("cpu", torch.bfloat16):
            results.append((model.train()(ids), seen[0]))
    for plain, fast in zip(*results, strict=True):
        finite = plain.isfinite()
        assert torch.equal(finite, fast.isfinite())
        assert (fast[finite] - plain[finite]).norm() < 0.02 * plain[finite].norm()
