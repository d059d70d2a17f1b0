"""The forward hooks that come with Kiara, and models that are only used: evaluated and generated from with hooks."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kiara_cli.config.load import load_config, to_mapping
from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.checkpoint import files
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.generate.opened import Opened, open_model
from kiara_cli.core.generate.text import complete, make_engine
from kiara_cli.core.hooks.attach import Attached
from kiara_cli.core.hooks.training import Hooks, use
from kiara_cli.core.model.points import points
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.errors import KiaraError

TEXT = "the cat sat on the mat and the dog sat on the log"
MODEL = ModelConfig(context_length=32, emb_dim=32, n_heads=4, n_kv_heads=2, n_layers=2, vocab_size=64)


@pytest.fixture
def checkpoint() -> Path:
    torch.manual_seed(0)
    model, tokenizer = Transformer(MODEL), CharTokenizer.fit(TEXT)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    config = to_mapping(load_config(overrides=["tokenizer.kind=char"]).config) | {"model": vars(MODEL)}
    path = Path("model.pt")
    files.save(Checkpoint(files.weights_of(model), config, tokenizer.state(), {}, {}), path)
    return path


def opened(checkpoint: Path, *words: str, dtype: str = "fp32") -> tuple[Opened, Hooks]:
    runtime = "runtime.device=cpu", f"runtime.dtype={dtype}", "runtime.threads=1"
    found = open_model(str(checkpoint), load_config(overrides=[*runtime, *words], check=False))
    return found, use(found)


def seen(checkpoint: Path, *words: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the values at all points without and with hooks, for the same text."""
    found, hooks = opened(checkpoint, *words)
    ids = torch.tensor([found.tokenizer.encode(TEXT)[:16], found.tokenizer.encode(TEXT)[16:32]])
    assert isinstance(hooks.attached, Attached)
    plain = hooks.attached.values(ids, list(points(found.model)))
    after: dict[str, Tensor] = {}
    for name, point in points(found.model).items():
        point.register_forward_hook(lambda module, inputs, out, name=name: after.__setitem__(name, out))
    with torch.no_grad():
        found.model.eval()(ids)
    return plain, after


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["use=suppress", "heads=2"], lambda x: x * torch.tensor([1, 1, 0, 1]).view(4, 1, 1)),
        (["use=scale", "with.factor=3", "positions=[0, -1]"],
         lambda x: x * torch.tensor([3] + [1] * 14 + [3]).view(16, 1)),
        (["use=add", "with.value=2", "heads=-1", "channels=[1]"],
         lambda x: x + 2 * (torch.arange(4) == 3).view(4, 1, 1) * (torch.arange(8) == 1)),
        (["use=set", "with.value=[1, 2, 3, 4, 5, 6, 7, 8]"], lambda x: torch.arange(1.0, 9).expand_as(x)),
        (["use=mean"], lambda x: x.mean((0, 2), keepdim=True).expand_as(x)),
        (["use=mean", "with.over=batch"], lambda x: x.mean(0, keepdim=True).expand_as(x)),
        (["use=mean", "with.over=positions", "heads=[0, 1, 2, 3]"], lambda x: x.mean(2, keepdim=True).expand_as(x)),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)  # fmt: skip
def test_each_operation_changes_what_is_selected_and_nothing_else(
    checkpoint: Path, words: list[str], expected: object
) -> None:
    point = "blocks.1.attention.heads"
    plain, after = seen(checkpoint, f"hooks.a.at={point}", *[f"hooks.a.{word}" for word in words])
    torch.testing.assert_close(after[point], expected(plain[point]))  # type: ignore[operator]
    assert torch.equal(after["blocks.1.resid_pre"], plain["blocks.1.resid_pre"])
    assert not torch.equal(after["logits"], plain["logits"])


def test_a_hook_on_scores_shows_nothing_that_was_masked(checkpoint: Path) -> None:
    at = "hooks.a.at=blocks.*.attention.scores", "hooks.a.heads=1"
    plain, after = seen(checkpoint, *at, "hooks.a.use=set", "hooks.a.with.value=0")
    for layer in range(2):
        scores, pattern = (after[f"blocks.{layer}.attention.{name}"] for name in ("scores", "pattern"))
        assert torch.equal(scores.isinf(), plain[f"blocks.{layer}.attention.scores"].isinf())
        uniform = torch.ones(16, 16).tril() / torch.arange(1, 17).view(16, 1)
        torch.testing.assert_close(pattern[:, 1], uniform.expand(2, 16, 16))


def test_noise_is_the_same_at_every_try_and_stays_out_of_evaluation_unless_asked_for(checkpoint: Path) -> None:
    words = "hooks.a.use=noise", "hooks.a.at=blocks.0.resid_pre", "hooks.a.with.deviation=0.5"
    plain, after = seen(checkpoint, *words)
    assert torch.equal(after["logits"], plain["logits"])
    first, second = (seen(checkpoint, *words, "hooks.a.with.in_evaluation=true")[1] for _ in range(2))
    assert torch.equal(first["logits"], second["logits"])
    drawn = first["blocks.0.resid_pre"] - plain["blocks.0.resid_pre"]
    assert 0.4 < float(drawn.std()) < 0.6
    other = seen(checkpoint, *words, "hooks.a.with.in_evaluation=true", "runtime.seed=2")[1]
    assert not torch.equal(other["logits"], first["logits"])
    found, hooks = opened(checkpoint, *words, "hooks.a.with.in_evaluation=true")
    assert hooks.attached is not None
    passes = []
    for step in (1, 1, 2):
        hooks.attached.begin(step)
        with torch.no_grad():
            passes += [found.model(torch.tensor([[1, 2, 3]])) for _ in range(2)]
    assert torch.equal(passes[0], passes[2])
    assert len({float(logits.sum()) for logits in passes}) == 4  # two passes of step 1, twice; two of step 2


def test_a_patch_brings_another_prompts_values_by_position_and_from_another_checkpoint(checkpoint: Path) -> None:
    other = "the dog sat on"  # 14 tokens
    at = "hooks.a.use=patch", f"hooks.a.with.prompt={other}", "hooks.a.at=blocks.1.resid_pre"
    found, hooks = opened(checkpoint, *at)
    assert isinstance(hooks.attached, Attached)
    ids = torch.tensor([found.tokenizer.encode(other)])
    source = hooks.attached.values(ids, ["blocks.1.resid_pre"])["blocks.1.resid_pre"]
    plain, after = (values["blocks.1.resid_pre"] for values in seen(checkpoint, *at))
    torch.testing.assert_close(after[:, :14], source.expand(2, 14, 32))
    assert torch.equal(after[:, 14:], plain[:, 14:])
    plain, after = (values["blocks.1.resid_pre"] for values in seen(checkpoint, *at, "hooks.a.positions=[3, -2]"))
    torch.testing.assert_close(after[:, 3], source[:, 3].expand(2, 32))
    torch.testing.assert_close(after[:, -2], source[:, -2].expand(2, 32))
    kept = [i for i in range(16) if i not in (3, 14)]
    assert torch.equal(after[:, kept], plain[:, kept])
    content = files.load(checkpoint)
    changed = {name: weight + 1 for name, weight in content.model.items()}
    files.save(Checkpoint(changed, content.config, content.tokenizer, {}, {}), Path("other.pt"))
    moved = seen(checkpoint, *at, "hooks.a.with.checkpoint=other.pt")[1]["blocks.1.resid_pre"]
    assert not torch.allclose(moved[:, :14], source.expand(2, 14, 32))
    with pytest.raises(
        KiaraError, match="hooks.a: with.prompt has .* tokens, and the model reads 32; give a shorter"
    ):
        opened(checkpoint, *at, f"hooks.a.with.prompt={other * 9}")


def test_what_is_generated_follows_the_hooks_of_the_config_with_a_cache_and_without(checkpoint: Path) -> None:
    token = CharTokenizer.fit(TEXT).encode("c")[0]
    config = GenerateConfig(max_new_tokens=5, temperature=0)
    words = ["hooks.a.use=set", "hooks.a.at=logits", f"hooks.a.channels={token}", "hooks.a.with.value=1000"]
    found, _ = opened(checkpoint, *words, "hooks.a.positions=[-1]")
    assert complete(found.engine(), found.tokenizer, "the", config).text == "ccccc"
    last = "hooks.a.use=suppress", "hooks.a.at=final_norm.out", "hooks.a.positions=-1"
    written = {}
    for dtype in ("fp32", "bf16"):
        for hook in ((), last):  # with it every id has the same score: the first of them, again and again
            found, _ = opened(checkpoint, *hook, dtype=dtype)
            written[dtype, bool(hook)] = complete(found.engine(), found.tokenizer, "the", config).text
    assert written["fp32", True] == written["bf16", True]
    assert len({*written.values()}) > 1
    assert written["bf16", True] not in (written["fp32", False], written["bf16", False])
    found, _ = opened(checkpoint, *words, "hooks.a.positions=[4, 5]")  # what follows them is replaced
    engines = [found.engine(), make_engine(found.model, found.tokenizer, found.runtime)]
    texts = {complete(engine, found.tokenizer, "the", config).text for engine in engines}
    assert len(texts) == 1
    assert texts.pop()[2:4] == "cc"


def test_hooks_that_train_are_said_to_do_nothing_where_nothing_is_trained(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "kiara.hooks")
    opened(checkpoint, "hooks.c.use=centralize")
    assert "Nothing is trained here, so these hooks do nothing: c." in caplog.text
