"""Samples of a model: the same prompt continued greedily, and a few times at random.

In: an opened checkpoint. Out: each text, with how it was sampled and the ids it is made of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.generate.engine import Engine
from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.generate.text import Writing
from kiara_cli.core.tokenizer.protocol import prompt_ids

FIRST_WORDS = "Tell me a story."  # the sample prompt of conversations where the config names none


@dataclass(frozen=True)
class Sample:
    how: str
    text: str  # with the prompt it continues; of a model that answers, the answer
    ids: tuple[int, ...]  # that were sampled, but the one that ended the text


def write_samples(opened: Opened, number: int) -> Iterator[Sample]:
    """Continue or answer the config's sample prompt, greedily once, then `number` times as config.generate says."""
    config, engine = opened.config, opened.engine()
    settings = dataclasses.replace(config.generate, max_new_tokens=max(1, config.eval.sample_tokens))
    first = settings.seed if settings.seed is not None else config.runtime.seed
    ways = [("greedy", dataclasses.replace(settings, temperature=0.0))]
    ways += [
        (f"temperature {settings.temperature}, seed {seed}", dataclasses.replace(settings, seed=seed))
        for seed in range(first, first + number)
    ]
    for how, way in ways:
        yield _write(opened, engine, how, way)


def _write(opened: Opened, engine: Engine, how: str, way: GenerateConfig) -> Sample:
    prompt, tokenizer, ends = opened.config.eval.sample_prompt, opened.tokenizer, opened.ends | opened.tokenizer.ends
    if opened.conversations:
        ids = opened.template.encode([{"role": "user", "content": prompt or FIRST_WORDS}])
        ends, prompt = opened.template.stop_ids, ""
    else:
        ids = prompt_ids(tokenizer, prompt)
    writing, sampled = Writing(engine, tokenizer, ids, way, ends), []
    for token in engine.generate(ids, way, ends):
        writing.push(token)
        sampled += [] if token.id in ends else [token.id]
        if writing.done is not None:
            break
    assert writing.done is not None, "the engine's last token carries the reason"
    return Sample(how, prompt + writing.done.text, tuple(sampled))
