"""Samples of a model: the same prompt continued greedily, and a few times at random.

In: an opened checkpoint. Out: each text, with how it was sampled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.generate.text import complete


def write_samples(opened: Opened, number: int) -> Iterator[dict[str, str]]:
    """Continue the config's sample prompt greedily once, then `number` times as config.generate says."""
    config, engine = opened.config, opened.engine()
    settings = dataclasses.replace(config.generate, max_new_tokens=max(1, config.eval.sample_tokens))
    first = settings.seed if settings.seed is not None else config.runtime.seed
    ways = [("greedy", dataclasses.replace(settings, temperature=0.0))]
    ways += [
        (f"temperature {settings.temperature}, seed {seed}", dataclasses.replace(settings, seed=seed))
        for seed in range(first, first + number)
    ]
    prompt = config.eval.sample_prompt
    for how, way in ways:
        yield {"how": how, "text": prompt + complete(engine, opened.tokenizer, prompt, way).text}
