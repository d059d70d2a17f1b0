"""Windows that overlap: each target counts once, and is read with what the stride promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.data.batches import IGNORE
from kiara_cli.core.eval.metrics import Scored, evaluate
from kiara_cli.core.eval.windows import windows
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.chat_format import encode_conversation
from kiara_cli.errors import KiaraError

CPU = Runtime(torch.device("cpu"), "fp32", 1)
TOKENIZER = CharTokenizer("".join(map(chr, range(0x61, 0x61 + 58))))
END = TOKENIZER.specials["<|endoftext|>"]
CONTEXT = 16


@pytest.mark.parametrize("length", [2, 16, 17, 18, 40, 200])
@pytest.mark.parametrize("stride", [1, 5, 15, 16])
def test_every_token_but_the_first_counts_once_with_the_context_that_is_promised(length: int, stride: int) -> None:
    ids = np.random.default_rng(0).permutation(length).astype(np.uint16)
    place = {int(token): index for index, token in enumerate(ids)}
    found: list[int] = []
    for batch in windows(ids, CONTEXT, 3, stride):
        for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
            for index, target in enumerate(targets):
                if target != IGNORE:
                    found.append(place[target])
                    assert inputs[index] == ids[place[target] - 1]
                    assert stride == CONTEXT or index + 1 > min(CONTEXT - stride, place[target] - 1)
    assert found == list(range(1, length))


def talk(question: str, answer: str) -> list[int]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return encode_conversation(messages * 2, TOKENIZER)[0]


MIXED = [
    END,
    *TOKENIZER.encode("hello" * 9),
    *talk("abc", "xyz"),
    END,
    *TOKENIZER.encode("short"),
    *talk("q" * 9, "w" * 9),
]


def test_of_documents_and_conversations_each_target_counts_once_and_sees_its_own_text_only(tiny: ModelConfig) -> None:
    ids, model = np.array(MIXED, dtype=np.uint16), Transformer(tiny).eval()
    starts = [index for index, token in enumerate(MIXED) if token == END]
    found = {}
    for stride in (4, CONTEXT):
        found[stride] = evaluate(model, ids, TOKENIZER, CPU, 2, stride=stride)
    documents, conversations, nats = 0, 0, 0.0
    for start, end in zip(starts, [*starts[1:], len(MIXED)], strict=True):
        kind = MIXED[start + 1] in TOKENIZER.specials.values()
        part = MIXED[start : end + (not kind)]
        learned = encode_mask(part) if kind else [False] + [True] * (len(part) - 1)
        documents += sum(learned) if not kind else 0
        conversations += sum(learned) if kind else 0
        nats += plain_nats(model, part, learned, 4)
    assert found[4].documents is not None
    assert found[4].conversations is not None
    assert (found[4].documents.tokens, found[4].conversations.tokens) == (documents, conversations)
    assert found[4].nats == pytest.approx(nats, rel=1e-5)
    assert found[CONTEXT].cut == 2  # both talks end where a row does
    assert found[4].cut == 0
    assert found[4].tokens > found[CONTEXT].tokens


def encode_mask(part: list[int]) -> list[bool]:
    speaker, mask = None, []
    for token in part:
        mask.append(speaker == TOKENIZER.specials["<|assistant|>"])
        speaker = token if token in TOKENIZER.specials.values() else speaker
    return mask


def plain_nats(model: Transformer, part: list[int], learned: list[bool], stride: int) -> float:
    """Score a text by itself, one target after the other."""
    nats, end = 0.0, CONTEXT
    for place in range(1, len(part)):
        if place > end:
            end = min(end + stride, len(part) - 1)
        first = max(0, end - CONTEXT)
        if learned[place]:
            with torch.no_grad():
                nats -= float(model(torch.tensor([part[first:place]]))[0, -1].log_softmax(-1)[part[place]])
    return nats


def test_the_ids_read_before_are_those_of_the_own_text(tiny: ModelConfig) -> None:
    letters, seen = iter(range(58)), {}
    documents = [[END, *(next(letters) for _ in range(5))] for _ in range(6)]  # two or more share a row
    ids = np.array([*(token for document in documents for token in document), *talk("a", "b")], dtype=np.uint16)

    def watch(scored: Scored) -> None:
        seen.update(zip(scored.targets.tolist(), scored.seen.tolist(), strict=True))

    evaluate(Transformer(tiny), ids, TOKENIZER, CPU, 2, watch=watch)
    assert [[seen[token] for token in document[1:]] for document in documents[1:]] == [[1, 2, 3, 4, 5]] * 5


def test_a_stride_that_leaves_text_out_is_refused(tiny: ModelConfig) -> None:
    with pytest.raises(KiaraError, match=r"eval\.stride=17 is more than the context of 16 tokens"):
        evaluate(Transformer(tiny), np.zeros(40, dtype=np.uint16), TOKENIZER, CPU, 2, stride=17)
