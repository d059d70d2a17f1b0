"""Trainings that must be the same, through the command line: loss and gradient norm of their first steps agree."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from kiara_cli.app import main
from kiara_cli.config.load import from_mapping
from kiara_cli.core.checkpoint import files
from kiara_cli.core.data.batches import IGNORE
from kiara_cli.core.data.folders import open_folder
from kiara_cli.core.data.packing import PackedBatcher
from kiara_cli.core.loss import batch_loss

WORDS = (
    "tokenizer.kind=char", "model.emb_dim=32", "model.n_heads=4", "model.n_layers=2", "train.lr=0.01",
    "train.log_interval=1", "train.eval_interval=100", "train.warmup_steps=0", "train.primer=false",
    "train.optimizer=adamw", "train.weight_decay=0", "eval.sample_tokens=0",
    "runtime.device=cpu", "runtime.dtype=fp32", "runtime.threads=1", "data.val_source=mine.jsonl", "mine.jsonl",
)  # fmt: skip
SAID = ("the red cat", "a dog", "no hat at all", "the mat", "log", "one rat and a bat", "sun", "the deep sea")
CLOSE = 1e-6  # relative, in float32: sums are made in another order


@pytest.fixture(autouse=True)
def _mine() -> None:
    """Conversations whose replies differ in length, so that rows differ in their number of targets."""
    talks = (
        [{"role": "user", "content": "who is it then, tell me"}, {"role": "assistant", "content": said}]
        for said in SAID
    )
    Path("mine.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))


def train(name: str, *words: str) -> list[tuple[float, float]]:
    """Train; return loss and gradient norm of each step."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said), pytest.raises(SystemExit) as stop:
        main(["train", "--name", name, *WORDS, *words])
    assert stop.value.code == 0, said.getvalue()
    lines = [json.loads(line) for line in Path("checkpoints", name, "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines if "grad_norm" in line]


def assert_same(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> None:
    assert len(one) == len(other) > 0
    for pair in zip(one, other, strict=True):
        assert pair[0] == pytest.approx(pair[1], rel=CLOSE)


def test_a_batch_of_four_is_four_of_one_that_are_accumulated() -> None:
    words = ("model.context_length=50", "train.max_steps=2")
    whole = train("whole", *words, "train.batch_size=4")
    assert_same(whole, train("parts", *words, "train.batch_size=1", "train.accumulation=4"))
    assert whole[0] != whole[1]


def test_packed_into_one_row_is_a_row_for_each() -> None:
    packed = train("packed", "model.context_length=400", "train.batch_size=1", "train.max_steps=1")
    padded = train("padded", "model.context_length=50", "train.batch_size=8", "train.max_steps=1")
    rows = [
        PackedBatcher(data.train, data.tokenizer.specials, context, 8, 0).rows
        for data in map(open_folder, Path("data").glob("mine-*")) for context in (400, 50)
    ]  # fmt: skip
    assert rows == [1, 8], "all in one row, or each in its own"
    assert_same(packed, padded)


def test_a_prompt_that_is_masked_is_a_prompt_that_counts_nothing() -> None:
    words = ("model.context_length=50", "train.batch_size=8")
    train("start", *words, "train.max_steps=1")
    ((loss, norm),) = train("masked", *words, "train.max_steps=1", "--from", "checkpoints/start/best.pt")
    checkpoint = files.load(Path("checkpoints/start/best.pt"))
    data = open_folder(Path(checkpoint.data["folder"]))
    learned, scored = (
        PackedBatcher(data.train, data.tokenizer.specials, 50, 8, 1337, loss_on).batch(0)
        for loss_on in ("assistant", "all")
    )
    assert torch.equal(learned.inputs, scored.inputs)
    model = checkpoint.make_model(from_mapping(checkpoint.config, "here").config.model)
    logits = model(scored.inputs, segments=scored.segments).transpose(1, 2)
    nats = F.cross_entropy(logits, scored.targets, ignore_index=IGNORE, reduction="none")
    weights = (learned.targets != IGNORE).float()
    assert weights.sum() < (scored.targets != IGNORE).sum()
    mean = (nats * weights).sum() / weights.sum()
    mean.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert loss == pytest.approx(mean.item(), rel=CLOSE)
    assert norm == pytest.approx(torch.nn.utils.get_total_norm(gradients).item(), rel=1e-5)


def test_an_adapter_that_says_nothing_yet_is_its_base() -> None:
    words = ("model.context_length=50", "train.batch_size=8", "train.max_steps=1")
    train("start", *words)
    start = ("--from", "checkpoints/start/best.pt")
    ((whole, _),) = train("whole", *words, *start)
    ((adapted, norm),) = train("adapter", *words, *start, "train.lora.rank=4", "train.lora.alpha=8")
    assert adapted == whole, "exactly"
    checkpoint = files.load(Path("checkpoints/start/best.pt"))
    data = open_folder(Path(checkpoint.data["folder"]))
    model = checkpoint.make_model(from_mapping(checkpoint.config, "here").config.model)
    batch = PackedBatcher(data.train, data.tokenizer.specials, 50, 8, 1337).batch(0)
    (batch_loss(model, batch)[0] / batch.target_count).backward()
    adapter, squares = files.load(Path("checkpoints/adapter/last.pt")).model, 0.0
    for name, a in adapter.items():
        if name.endswith(".lora_a"):  # whose gradient is 0 while the other factor is: it is as it was
            gradient = model.get_parameter(name.replace(".lora_a", ".weight")).grad
            assert gradient is not None
            squares += float((8 / 4 * gradient @ a.T).square().sum())
    assert norm == pytest.approx(squares**0.5, rel=1e-5), "what reaches an adapter is what reaches its matrix"
