from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kiara_cli.config.load import load_config
from kiara_cli.config.schema import DEFAULT_STEPS, Config
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.data.prepare import prepare
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.train.plan import plan, settle
from kiara_cli.errors import KiaraError

ROOT = Path("checkpoints")
Configure = Callable[..., Config]


def test_the_vocabulary_is_the_tokenizers_rounded_up(configure: Configure, data: Prepared) -> None:
    assert data.tokenizer.size < 64
    assert settle(configure(), data.tokenizer).model.vocab_size == 64
    assert settle(configure("model.vocab_size=100"), data.tokenizer).model.vocab_size == 100


def test_a_vocabulary_too_small_for_the_tokenizer_is_refused(configure: Configure, data: Prepared) -> None:
    with pytest.raises(KiaraError, match=r"model\.vocab_size=3 is smaller than the tokenizer's \d+ ids; .* 64"):
        settle(configure("model.vocab_size=3"), data.tokenizer)


def test_the_plan_counts_what_the_run_will_do(configure: Configure, data: Prepared) -> None:
    found = plan(configure("train.accumulation=2"), data)
    assert found.steps == 6
    assert found.tokens == 6 * 2 * 4 * 16
    assert found.epochs == pytest.approx(found.tokens / len(data.train), rel=0.05)
    assert found.count.parameters == sum(p.numel() for p in Transformer(found.config.model).parameters())
    assert found.training_flops == 3 * found.count.forward_flops * found.tokens
    assert not ROOT.exists()


def talks(number: int, reply: bool = True) -> str:
    replies = [{"role": "assistant", "content": "the dog"}] if reply else []
    all_said = [[{"role": "user", "content": f"hi {n:3}"}, *replies] for n in range(number)]
    return "".join(json.dumps({"messages": said}) + "\n" for said in all_said)


def documents(number: int) -> str:
    return "".join(json.dumps({"text": f"the cat sat on log {n}. "}) + "\n" for n in range(number))


CORPORA = {
    "talks.jsonl": talks(40),
    "silent.jsonl": talks(40, reply=False),
    "mixed.jsonl": documents(30) + talks(30),
    "late.jsonl": talks(20, reply=False) + talks(20),
    "book.txt": "the cat sat on the mat. " * 40,
    "x.txt": "x",
}


@pytest.mark.parametrize(
    ("source", "held_out", "words", "mistake"),
    [
        ("talks.jsonl", "book.txt", (), "data.val_source=book.txt holds documents, talks.jsonl only conversations"),
        ("book.txt", "talks.jsonl", (), "data.val_source=talks.jsonl holds conversations, book.txt only documents"),
        ("talks.jsonl", "silent.jsonl", (), "no target in data.val_source=silent.jsonl: none .* (40) has a reply"),
        ("mixed.jsonl", "silent.jsonl", (), "no target in data.val_source=silent.jsonl"),
        ("silent.jsonl", None, (), "no target in the training split of silent.jsonl: none"),
        ("talks.jsonl", None, ("model.context_length=3",), "within model.context_length=3; give conversations"),
        ("talks.jsonl", "late.jsonl", ("eval.max_tokens=50",), "the first eval.max_tokens=50 tokens of data.val_sou"),
        ("mixed.jsonl", "book.txt", (), None),
        ("mixed.jsonl", "talks.jsonl", (), None),
        ("talks.jsonl", "mixed.jsonl", (), None),
        ("book.txt", "mixed.jsonl", (), None),
        ("talks.jsonl", "late.jsonl", (), None),
    ],
)
def test_a_split_with_nothing_to_learn_or_to_measure_is_refused_before_training(
    configure: Configure, source: str, held_out: str | None, words: tuple[str, ...], mistake: str | None
) -> None:
    """The loss of no targets is 0, which no later evaluation could beat."""
    for name, content in CORPORA.items():
        Path(name).write_text(content)
    words = (f"data.source={source}", *((f"data.val_source={held_out}",) if held_out else ()), *words)
    config = configure(*words, "tokenizer.alphabet=ascii")
    data = prepare(config.data, config.tokenizer, Path("data"))
    if mistake is None:
        assert plan(config, data).measured.targets > 0
        return
    with pytest.raises(KiaraError, match=re.escape(mistake).replace(r"\.\*", ".*")):
        plan(config, data)


def test_the_plan_counts_the_targets_of_documents_and_of_conversations(configure: Configure) -> None:
    Path("mixed.jsonl").write_text(documents(300) + talks(5))
    config = configure("data.source=mixed.jsonl", "model.context_length=64")
    data = prepare(config.data, config.tokenizer, Path("data"))
    found = plan(config, data)
    both = (found.learned, found.measured)
    assert sum(contents.documents for contents in both) == 300
    assert sum(contents.conversations for contents in both) == data.meta.conversations == 5
    assert found.learned.conversations == data.meta.train_conversations
    assert [contents.conversation_targets for contents in both] == [8 * contents.conversations for contents in both]
    assert all(contents.document_targets >= 22 * contents.documents for contents in both)


def test_the_smaller_of_max_steps_and_max_epochs_counts(configure: Configure, data: Prepared) -> None:
    per_epoch = len(data.train) / (4 * 16)
    assert plan(configure("train.max_epochs=0.1"), data).steps == pytest.approx(0.1 * per_epoch, abs=1)
    assert plan(configure("train.max_epochs=1000"), data).steps == 6
    assert plan(configure("train.max_epochs=1e-9"), data).steps == 1
    two = plan(configure("train.max_epochs=0.1", "train.accumulation=2"), data)
    assert two.steps == pytest.approx(0.05 * per_epoch, abs=1)


def test_what_was_set_limits_a_run_and_the_default_does_not(configure: Configure, data: Prepared) -> None:
    words = ("model.context_length=16", "model.emb_dim=32", "model.n_layers=1", "train.batch_size=4")

    def planned(*limits: str) -> tuple[int, str, int | None]:
        found = plan(load_config(overrides=[*words, *limits]).config, data)
        return found.steps, found.limit, found.config.train.max_steps

    assert planned() == (DEFAULT_STEPS, "train.max_steps", DEFAULT_STEPS)
    steps, limit, stored = planned("train.max_epochs=100")
    assert steps == pytest.approx(100 * len(data.train) / (4 * 16), rel=0.05)
    assert steps > DEFAULT_STEPS
    assert (limit, stored) == ("train.max_epochs", None)
    assert planned("train.max_epochs=100", "train.max_steps=7")[:2] == (7, "train.max_steps")
    Path("configs").mkdir()
    Path("configs/default.yaml").write_text("train:\n  max_steps: null\n")  # which spells every setting out
    assert planned("train.max_epochs=100")[0] == steps


def test_a_plan_decides_every_auto_and_says_what_cannot_be_done(configure: Configure, data: Prepared) -> None:
    auto = plan(configure("runtime.device=auto", "runtime.dtype=auto", "runtime.threads=auto"), data)
    undecided = [name for name, value in vars(auto.config.runtime).items() if value == "auto"]
    assert undecided == ["threads", "parallel"]  # as many as may be used at each start; of several processes
    assert auto.how.startswith(f"{auto.runtime.device_name}, {auto.runtime.dtype}, ")
    assert auto.unmet == {}
    fused = plan(configure("runtime.native=true", "runtime.dtype=fp32"), data)
    assert fused.config.runtime.native is False
    assert fused.unmet == {"native": "the C loops are for bf16 on a CPU"}


def test_data_shorter_than_one_window_is_refused(configure: Configure, data: Prepared) -> None:
    with pytest.raises(KiaraError, match=r"model\.context_length=9999 .*10,000; use a longer text"):
        plan(configure("model.context_length=9999"), data)
