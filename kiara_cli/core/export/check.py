"""Whether another program makes the same of an export as Kiara makes of the checkpoint.

In: two judges, and ids of held-out text. Out: `Report`: ids of texts and of conversations equal, log-probabilities
within a tolerance,
greedy continuations equal wherever the two best ids are further apart than that; for quantized weights bits per byte
too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.checkpoint.files import model_from
from kiara_cli.core.data.shards import Tokens
from kiara_cli.core.eval.metrics import evaluate
from kiara_cli.core.export import gguf, huggingface
from kiara_cli.core.export.oracles import Judge, Kiara, LlamaCpp, Step, Transformers
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.conversation import template_for
from kiara_cli.core.tokenizer.protocol import Tokenizer, decode

HELLO: list[Message] = [{"role": "user", "content": "Hello,\n  it's 漢 & 12345!"}]
TALKS: tuple[list[Message], ...] = (
    HELLO,
    [*HELLO, {"role": "assistant", "content": "So it is."}, {"role": "user", "content": "Why?"}],
    [{"role": "system", "content": "Be brief."}, *HELLO],
)
PROMPTS = 8
STEPS = 64
MEASURED = 20_000  # ids, at most, for bits per byte
LIKELY = math.log(1e-4)  # scores of ids less likely than this are not compared: nobody would see them
# How far log-probabilities may lie apart. Measured on the default model: 2e-5, 0.007, 0.05, 0.2 and 0.17. With half
# precision llama.cpp also rounds what goes into each product, with q8_0 and q4_0 to 8 bits.
TOLERANCES = {"f32": 1e-3, "f16": 3e-2, "bf16": 2e-1, "q8_0": 6e-1, "q4_0": 6e-1}
# How much worse the dequantized weights may predict held-out text, as a share of bits per byte. Measured on the
# default model: 0.0002 and 0.024.
GELU_TOLERANCE = 1e-2  # llama.cpp looks GELU up, its tanh form, in a table in half precision
WORSE = {"q8_0": 0.01, "q4_0": 0.15}


@dataclass(frozen=True)
class Report:
    """What a comparison found."""

    judge: str
    texts: int
    texts_equal: int
    steps: int  # of greedy continuations, compared id by id
    steps_equal: int
    largest_difference: float  # of log-probabilities
    tolerance: float
    bits_per_byte: float | None = None  # of the quantized weights
    bits_per_byte_before: float | None = None
    bits_per_byte_bound: float | None = None
    conversations: int = 0  # written by the chat template, if there is one
    conversations_equal: int = 0

    @property
    def passed(self) -> bool:
        whole = self.texts_equal == self.texts and self.steps_equal == self.steps and self.steps > 0
        whole = whole and self.conversations_equal == self.conversations
        close = self.largest_difference <= self.tolerance
        bound, found = self.bits_per_byte_bound, self.bits_per_byte
        return whole and close and (bound is None or found is None or found <= bound)

    def values(self) -> dict[str, Any]:
        """Return it as JSON values, without what was not measured."""
        return {key: value for key, value in asdict(self).items() if value is not None} | {"passed": self.passed}


def check_export(
    to: str, path: Path, quant: str, model: ModelConfig, weights: Mapping[str, Tensor], tokenizer: Tokenizer,
    ids: Tokens, conversations: bool = False,
) -> Report:  # fmt: skip
    """Compare the export at `path` with the model it was made of, rounded as the export is, on held-out ids.

    `conversations`: the model learned from some.
    """
    assert model.vocab_size is not None
    ids = ids[:]  # of all files
    ids = ids[ids < np.uint32(model.vocab_size)]  # an imported model may lack rows for marks
    kept = gguf.read_weights(path, model) if to == "gguf" else {
        name: tensor.to(huggingface.DTYPES[quant]).float() for name, tensor in weights.items()
    }  # fmt: skip
    reference = model_from(model, weights if quant == "f32" else kept, str(path))
    # llama.cpp puts what begins a conversation before every text
    begin = (tokenizer.start,) if to == "gguf" and conversations else tokenizer.prefix
    ours = Kiara(reference, tokenizer, begin, template_for(tokenizer, conversations))
    theirs = Transformers(path) if to == "hf" else LlamaCpp(path, model.context_length, torch.get_num_threads())
    tolerance = TOLERANCES["f32" if to == "hf" else quant]  # transformers computes in float32 here
    if to == "gguf" and model.feedforward in ("gelu", "gelu_erf", "geglu"):
        tolerance = max(tolerance, GELU_TOLERANCE)
    report = compare(ours, theirs, tokenizer, ids, model.context_length, tolerance)
    if quant not in WORSE:
        return report
    runtime = Runtime(torch.device("cpu"), "fp32", torch.get_num_threads())
    before, after = (
        evaluate(measured, ids, tokenizer, runtime, 8, MEASURED).bits_per_byte
        for measured in (model_from(model, weights, str(path)), reference)
    )
    bound = before * (1 + WORSE[quant])
    return replace(report, bits_per_byte=after, bits_per_byte_before=before, bits_per_byte_bound=bound)


def compare(ours: Judge, theirs: Judge, tokenizer: Tokenizer, ids: Tokens, context: int, tolerance: float) -> Report:
    """Compare two judges on the texts in `ids`, and on continuations of windows of them."""
    found = texts(ids, tokenizer)
    equal = sum(ours.encode(text) == theirs.encode(text) for text in found)
    steps = same = 0
    largest = 0.0
    for prompt in prompts(ids, context):
        room = min(STEPS, context - len(prompt))
        pairs = zip(ours.continue_greedily(prompt, room), theirs.continue_greedily(prompt, room), strict=False)
        for mine, other in pairs:
            largest = max(largest, difference(mine, other))
            if mine.id != other.id and margin(mine) <= tolerance:
                break  # a tie within the tolerance: from here on the two read different texts
            steps += 1
            same += mine.id == other.id
            if mine.id != other.id:
                break
    written = [(ours.encode_talk(talk), talk) for talk in TALKS]
    talks = [(ids, talk) for ids, talk in written if ids is not None]
    alike = sum(_said(ids, tokenizer) == _said(theirs.encode_talk(talk), tokenizer) for ids, talk in talks)
    return Report(
        theirs.name, len(found), equal, steps, same, largest, tolerance,
        conversations=len(talks), conversations_equal=alike,
    )  # fmt: skip


def _said(ids: list[int] | None, tokenizer: Tokenizer) -> list[int] | None:
    """Return a conversation without what begins every text: llama.cpp writes it even where a template does not."""
    prefix = [*tokenizer.prefix]
    return ids[len(prefix) :] if ids and prefix and ids[: len(prefix)] == prefix else ids


def texts(ids: Tokens, tokenizer: Tokenizer, limit: int = 200) -> list[str]:
    """Return the texts between the marks in ids, at most `limit` of them, each cut to 2,000 ids."""
    marks = np.flatnonzero(np.isin(ids[:], list(tokenizer.specials.values())))
    edges = [-1, *marks[: limit + 1].tolist(), len(ids)]
    pieces = [ids[start + 1 : end][:2000] for start, end in itertools.pairwise(edges)]
    return [decode(tokenizer, piece.tolist()) for piece in pieces if len(piece)][:limit]


def prompts(ids: Tokens, context: int) -> list[list[int]]:
    """Return windows of ids from all over the text, each up to half a context long."""
    length = max(1, min(context // 2, len(ids) // 2))
    starts = np.linspace(0, len(ids) - length, min(PROMPTS, len(ids))).astype(int)
    return [ids[start : start + length].tolist() for start in dict.fromkeys(starts.tolist())]


def difference(mine: Step, other: Step) -> float:
    """Return how far the log-probabilities of likely ids lie apart at most."""
    likely = [(score, other.scores[token]) for token, score in mine.scores.items() if token in other.scores]
    return max((abs(a - b) for a, b in likely if max(a, b) > LIKELY), default=0.0)


def margin(step: Step) -> float:
    """Return how far the second best id is behind the best one."""
    first, second = sorted(step.scores.values(), reverse=True)[:2]
    return first - second
