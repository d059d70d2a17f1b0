"""Loops in C compute what the modules' own operators do, to the precision of bf16."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import RuntimeConfig
from kiara_cli.core.model.fused import Dropped, decide_fused, fuse, load
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime import native
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.runtime.native import CompilerError

CONFIG = ModelConfig(vocab_size=64, context_length=40, emb_dim=96, n_heads=6, n_kv_heads=3, n_layers=2)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def compiler() -> None:
    try:
        load()
    except CompilerError as error:
        pytest.skip(str(error))


def make(config: ModelConfig, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(config)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # weights of norms that differ from one another
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return model


def learned(model: Transformer, bf16: bool, documents: bool) -> dict[str, Tensor]:
    """Return the logits, and the gradients by the names of the weights."""
    ids = torch.randint(1, 64, (3, 40), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = ids[:, 17] = 0
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(ids, segments=(ids == 0).cumsum(1) if documents else None)
    F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten()).backward()
    return {"logits": logits.detach()} | {name: weight.grad for name, weight in model.named_parameters()}


def distance(found: Tensor, exact: Tensor) -> float:
    return float((found.float() - exact).norm() / exact.norm())


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"qk_norm": False},
        {"positions": "learned"},
        {"norm": "layernorm"},
        {"feedforward": "relu2"},
        {"emb_dim": 132},
    ],
)
def test_loops_are_as_near_to_the_exact_gradients_as_torch_in_bf16(
    change: dict[str, object], documents: bool
) -> None:
    config = CONFIG.replace(**change)
    far: dict[str, list[tuple[float, float]]] = {}
    for seed in range(6):  # a single gradient may be near to nothing, and mere rounding then
        exact = learned(make(config, seed), bf16=False, documents=documents)
        usual = learned(make(config, seed), bf16=True, documents=documents)
        fused = learned(fuse(make(config, seed), load()), bf16=True, documents=documents)
        assert not torch.equal(fused["logits"], usual["logits"])  # it did something
        for name in exact:
            far.setdefault(name, []).append((distance(fused[name], exact[name]), distance(usual[name], exact[name])))
    for name, pairs in far.items():
        ours, torchs = (statistics.mean(distances) for distances in zip(*pairs, strict=True))
        assert ours < 1.3 * torchs + 0.003, name


def test_a_fused_model_is_its_own_self_where_the_input_is_not_bf16() -> None:
    plain = learned(make(CONFIG), bf16=False, documents=True)
    fused = learned(fuse(make(CONFIG), load()), bf16=False, documents=True)
    assert all(torch.equal(fused[name], plain[name]) for name in plain)


def test_the_same_gradients_come_out_each_time_on_several_threads() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        one, two = (learned(fuse(make(CONFIG), load()), bf16=True, documents=True) for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one[name], two[name]) for name in one)
    alone = learned(fuse(make(CONFIG), load()), bf16=True, documents=True)
    assert all(distance(one[name], alone[name].float()) < 0.01 for name in one)


def test_dropout_drops_its_share_anew_each_time_and_the_gradients_where_it_did() -> None:
    x = torch.ones(50, 2000, dtype=torch.bfloat16, requires_grad=True)
    out, other = (Dropped.apply(x, 0.25, load()) for _ in range(2))  # type: ignore[no-untyped-call]
    assert set(out.unique().tolist()) == {0.0, 1.3359375}
    gone, gone_then = out == 0, other == 0
    assert abs(float(gone.float().mean()) - 0.25) < 0.01
    assert abs(float((gone & gone_then).float().mean()) - 0.0625) < 0.01  # of the other call independent
    assert abs(float((gone[:, 1:] & gone[:, :-1]).float().mean()) - 0.0625) < 0.01  # and of the neighbour
    out.backward(torch.ones_like(out))
    assert x.grad is not None
    assert torch.equal(x.grad == 0, gone)
    torch.manual_seed(5)
    again = Dropped.apply(x, 0.25, load())  # type: ignore[no-untyped-call]
    torch.manual_seed(5)
    assert torch.equal(again, Dropped.apply(x, 0.25, load()))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_a_fused_model_drops_in_training_alone(rate: float) -> None:
    model = fuse(make(dataclasses.replace(CONFIG, drop_rate=rate)), load())
    ids = torch.randint(1, 64, (2, 40))
    with torch.autocast("cpu", torch.bfloat16):
        one, two = model(ids), model(ids)
        model.eval()
        assert torch.equal(model(ids), model(ids))
    assert torch.equal(one, two) == (rate == 1.0)


def test_what_is_not_finite_stays_so() -> None:
    model = fuse(make(CONFIG), load())
    model.tokens.weight.data[5, 3] = float("nan")
    ids = torch.arange(10)[None]
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids)
    assert bool(logits[0, 5:].isnan().all())


def test_loops_are_for_bf16_on_a_cpu_and_for_who_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(CPU, "bf16", 1)
    assert decide_fused(RuntimeConfig(), runtime)[0]
    assert not decide_fused(RuntimeConfig(native=False), runtime)[0]
    assert not decide_fused(RuntimeConfig(compile=True), runtime)[0]
    assert not decide_fused(RuntimeConfig(native=True), Runtime(CPU, "fp32", 1))[0]
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    monkeypatch.setattr(native, "_loaded", {})
    monkeypatch.setenv("KIARA_CACHE", "empty")
    assert decide_fused(RuntimeConfig(), runtime) == (False, "the C compiler does not work here: no C compiler")


def test_a_compiler_that_fails_is_one_line() -> None:
    Path("wrong.c").write_text("int f( {")
    with pytest.raises(CompilerError, match=r"wrong\.c") as caught:
        native.build(Path("wrong.c"), {})
    assert "\n" not in str(caught.value)


T = 40
MASKS = {
    "a row for all": (1, 1, 1, T),
    "one for the whole batch": (1, 1, T, T),
    "two dimensions": (T, T),
    "of each row": (3, 1, T, T),
    "of each row, alike for all queries": (3, 1, 1, T),
    "of each head": (1, 6, T, T),
}


@pytest.mark.parametrize("boolean", [False, True])
@pytest.mark.parametrize("shape", MASKS.values(), ids=MASKS)
def test_a_mask_of_any_shape_that_broadcasts_means_what_it_means_to_torch(
    shape: tuple[int, ...], boolean: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 6, T, 16, generator=generator) for _ in range(3))
    seen = torch.rand(shape, generator=generator) < 0.7
    seen[..., 0] = True
    mask = seen if boolean else torch.zeros(shape).masked_fill_(~seen, float("-inf"))
    exact = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    attention = fuse(make(CONFIG), load()).blocks[0].attention
    q, k, v = (x.bfloat16().requires_grad_() for x in (q, k, v))
    found = attention.attend(q, k, v, mask if boolean else mask.bfloat16(), 0.0)  # type: ignore[union-attr, operator]
    assert distance(found.detach(), exact) < 0.01
    found.float().sum().backward()
    assert q.grad is not None


def test_a_mask_that_does_not_fit_is_an_error_and_is_not_read() -> None:
    attention = fuse(make(CONFIG), load()).blocks[0].attention
    q = torch.randn(3, 6, T, 16).bfloat16().requires_grad_()
    with pytest.raises(RuntimeError, match="expand"):
        attention.attend(q, q, q, torch.zeros(2, 1, T, T), 0.0)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("name", ["norm_1", "attention.q_norm", "attention.k_norm"])
@pytest.mark.parametrize("what", ["bf16", "float64", "every other number", "another epsilon"])
def test_norms_whose_numbers_the_loops_do_not_know_keep_torchs_operators(name: str, what: str) -> None:
    plain, fused = make(CONFIG), fuse(make(CONFIG), load())
    for model in (plain, fused):
        norm: Any = model.get_submodule(f"blocks.0.{name}")
        weight = norm.weight.data
        if what == "another epsilon":
            norm.eps = 0.5
        else:
            spread = torch.stack([weight, -weight], dim=1)[:, 0]
            norm.weight.data = {"bf16": weight.bfloat16(), "float64": weight.double()}.get(what, spread)
    ids = torch.randint(1, 64, (2, T))
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = plain(ids).detach(), fused(ids).detach()
    assert distance(found, expected) < 0.03
