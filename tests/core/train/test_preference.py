"""Training on pairs of replies: ln 2 at first, the reference kept, what the formulas say, pairs kept together."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kiara_cli.config.load import load_config
from kiara_cli.config.schema import DataConfig, TokenizerConfig
from kiara_cli.core.data.batches import IGNORE
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.data.pairs import PairBatcher, preferred
from kiara_cli.core.data.prepare import prepare
from kiara_cli.core.loss import Preference, segment_scores
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.tokenizer.protocol import decode
from kiara_cli.core.train.events import Evaluated, Stepped
from kiara_cli.core.train.job import Job, run
from kiara_cli.core.train.records import record_of
from kiara_cli.errors import KiaraError

NAMES = [
    "cat",
    "dog",
    "hat",
    "mat",
    "log",
    "rat",
    "bat",
    "sun",
    "sea",
    "tea",
    "ant",
    "eel",
    "cow",
    "hen",
    "fox",
    "owl",
]
PAIRS = [{"prompt": f"a {name}", "chosen": f"the {name}!", "rejected": "no no"} for name in NAMES]


@pytest.fixture
def data() -> Prepared:
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return prepare(DataConfig(source="pairs.jsonl"), TokenizerConfig(kind="char"), Path("data"))


def batcher(data: Prepared, context: int = 40, size: int = 4) -> PairBatcher:
    return PairBatcher(data.train, data.tokenizer.specials, context, size, seed=0)


def said(data: Prepared, pairs: PairBatcher, row: torch.Tensor, segments: torch.Tensor, number: int) -> str:
    return decode(data.tokenizer, row[segments == number].tolist())


def test_both_sides_of_a_pair_lie_together_with_the_same_number_however_a_batch_is_split(data: Prepared) -> None:
    assert data.meta.train_pairs + data.meta.val_pairs == len(PAIRS)
    assert data.meta.documents == len(PAIRS)
    pairs, seen = batcher(data), []
    for step in range(-(-pairs.rows // 4)):
        batch = pairs.batch(step)
        assert batch.target_count == pairs.targets(step)
        pieces = list(batch.split(3))
        assert sum(piece.target_count for piece in pieces) == batch.target_count
        for piece in pieces:
            assert len(piece.inputs) % 2 == 0
            assert piece.segments is not None
            assert piece.scores is not None
            for row in range(0, len(piece.inputs), 2):
                for number in (~piece.scores[row].isnan()).nonzero().flatten().tolist():
                    one, other = (
                        said(data, pairs, piece.inputs[side], piece.segments[side], number) for side in (row, row + 1)
                    )
                    assert one[:5] == other[:5], "the same request"
                    assert other.endswith("no no")
                    seen.append(one)
    assert len(set(seen)) == data.meta.train_pairs
    ids = preferred(data.train, data.tokenizer.specials)
    assert "no no" not in decode(data.tokenizer, ids.tolist())


def test_the_objectives_are_what_the_papers_write(data: Prepared) -> None:
    pairs = batcher(data)
    pairs.scores[:] = np.random.default_rng(0).normal(-9, 1, pairs.scores.shape)
    words = ("model.emb_dim=16", "model.n_layers=1", "model.vocab_size=64")
    model = Transformer(load_config(overrides=words).config.model)
    batch = pairs.batch(0)
    assert batch.segments is not None
    assert batch.scores is not None
    states = model.states(batch.inputs, segments=batch.segments)
    found, counts = segment_scores(states, model.unembed, batch)
    chunked, _ = segment_scores(states, model.unembed, batch, chunk=7)
    assert torch.allclose(found, chunked, atol=1e-5)
    logps = -F.cross_entropy(model(batch.inputs, segments=batch.segments).transpose(1, 2), batch.targets,
                             ignore_index=IGNORE, reduction="none")  # fmt: skip
    dpo, simpo = torch.zeros(()), torch.zeros(())
    for row in range(0, len(batch.inputs), 2):
        for number in (~batch.scores[row].isnan()).nonzero().flatten().tolist():
            sums, means, against = [], [], []
            for side in (row, row + 1):
                here = (batch.segments[side] == number) & (batch.targets[side] != IGNORE)
                sums.append(logps[side][here].sum())
                means.append(logps[side][here].mean())
                against.append(sums[-1] - batch.scores[side, number])
                assert found[side, number].item() == pytest.approx(sums[-1].item(), abs=1e-4)
                assert counts[side, number] == here.sum()
            dpo = dpo - F.logsigmoid(0.1 * (against[0] - against[1]))
            simpo = simpo - F.logsigmoid(2.0 * (means[0] - means[1]) - 1.0)
    for objective, expected in ((Preference("dpo", 0.1), dpo), (Preference("simpo", 2.0, 1.0), simpo)):
        assert objective(states, model.unembed, batch)[0].item() == pytest.approx(expected.item(), rel=1e-5)


WORDS = (
    "tokenizer.kind=char", "model.context_length=40", "model.emb_dim=32", "model.n_heads=4", "model.n_layers=1",
    "train.batch_size=4", "train.log_interval=1", "train.eval_interval=4", "train.checkpoint_interval=4",
    "train.warmup_steps=0", "train.max_steps=8", "eval.sample_tokens=0", "runtime.device=cpu", "runtime.dtype=fp32",
    "runtime.threads=1", "data.source=pairs.jsonl", "train.optimizer=adamw", "train.lr=0.003",
)  # fmt: skip


def job(*words: str, **named: object) -> Job:
    loaded = load_config(overrides=(*WORDS, *words))
    return Job(loaded, Path("data"), Path("checkpoints"), **named)  # type: ignore[arg-type]


@pytest.fixture
def base(data: Prepared) -> str:
    """A checkpoint that has learned replies, preferred ones and others."""
    talks = [
        {"messages": [{"role": "user", "content": pair["prompt"]}, {"role": "assistant", "content": pair[side]}]}
        for pair in PAIRS for side in ("chosen", "rejected")
    ]  # fmt: skip
    Path("talks.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    list(run(job("data.source=talks.jsonl", "train.max_steps=4", name="base")))
    return "checkpoints/base/best.pt"


@pytest.mark.parametrize("words", [(), ("train.lora.rank=4", "train.lora.lr=0.05")], ids=["all weights", "adapter"])
def test_dpo_begins_at_ln_2_prefers_what_is_preferred_and_resumes_the_same(base: str, words: tuple[str, ...]) -> None:
    asked = ("train.objective=dpo", *words)
    events = list(run(job(*asked, "train.preference.beta=0.5", weights=base, name="straight")))
    steps = [event for event in events if isinstance(event, Stepped)]
    assert steps[0].loss == pytest.approx(math.log(2), abs=1e-6)
    assert record_of(steps[0])["reward_margin"] == pytest.approx(0, abs=1e-6)
    assert "perplexity" not in record_of(steps[0])
    (*_, last) = (event for event in events if isinstance(event, Evaluated))
    record = record_of(last)
    assert record["val_loss"] < math.log(2)
    assert record["val_reward_accuracy"] == 1.0
    assert record["val_reward_margin"] > 0
    if not words:  # it is resumed in the same way
        return
    list(run(job(*asked, "train.preference.beta=0.5", weights=base, name="cut")))
    for name in ("last.pt", "step_0000008.pt"):
        Path("checkpoints/cut", name).unlink()
    again = [event for event in run(job(name="cut", resume=True)) if isinstance(event, Stepped)]
    assert [event.loss for event in again] == [event.loss for event in steps[4:]]
    Path("checkpoints/cut/reference.safetensors").write_bytes(b"")
    Path("checkpoints/cut/last.pt").unlink()
    Path("checkpoints/cut/step_0000008.pt").unlink()
    with pytest.raises(KiaraError, match=r"reference.safetensors, what the weights at the beginning .*; restore it"):
        list(run(job(name="cut", resume=True)))


def test_simpo_needs_no_reference_and_pairs_and_objective_go_together(base: str) -> None:
    events = list(run(job("train.objective=simpo", weights=base, name="simpo")))
    assert not Path("checkpoints/simpo/reference.safetensors").exists()
    measured = [record_of(event)["val_loss"] for event in events if isinstance(event, Evaluated)]
    assert measured[-1] < measured[0]
    for words, cause in (
        ((), "pairs.jsonl holds pairs of replies, of which one is not to be learned; write train.objective=dpo"),
        (("train.objective=dpo", "data.source=talks.jsonl"), "talks.jsonl holds no pairs of replies; give records"),
        (("train.objective=dpo", "data.replay=0.2"), "learns from pairs alone"),
        (("train.objective=dpo", "model.context_length=12"), "context_length=12"),
    ):
        with pytest.raises(KiaraError, match=cause.replace("(", r"\(")):
            list(run(job(*words, weights=base)))
