"""What is known of the data of a training: from a plan that has it, or from what lies here, or assumed.

In: a `Plan`; or a config, before anything is prepared. Out: `Facts`, and the config with all sizes fixed.
"""

from __future__ import annotations

import math
from pathlib import Path

from kiara_cli.config.schema import Config, TokenizerConfig
from kiara_cli.core.data.folders import Prepared, dataset_name, fetched, open_folder
from kiara_cli.core.data.source import Source, means_of
from kiara_cli.core.lab.planning.estimate import Facts
from kiara_cli.core.lab.planning.memory import Rows
from kiara_cli.core.quantize.scheme import recorded
from kiara_cli.core.train.plan import LIMITS, Plan, settle_sizes
from kiara_cli.errors import KiaraError

IDS = {  # of tiktoken's encodings, special ones included
    "gpt2": 50_257, "r50k_base": 50_257, "p50k_base": 50_281, "p50k_edit": 50_284, "cl100k_base": 100_277,
    "o200k_base": 200_019, "o200k_harmony": 201_088,
}  # fmt: skip
CHARACTERS = 97  # of the ascii alphabet, and about what other texts in Latin letters have


def facts_of(plan: Plan) -> Facts:
    """Return what a plan knows."""
    places = max(1, plan.batcher.rows * plan.config.model.context_length)
    scored = min(1.0, plan.learned.targets / places) if plan.data.meta.conversations else 1.0
    scheme = recorded(plan.quantized, "the checkpoint") if plan.quantized is not None else None
    rows = Rows(scored, bool(plan.data.meta.conversations), scheme)
    return Facts(plan.data.meta.source, plan.steps, plan.limit, plan.data.meta.train_tokens, rows)


def facts_before(config: Config, root: Path) -> tuple[Config, Facts]:
    """Return what can be known without preparing anything, and the config with its sizes.

    A data folder of this name that is there already counts; else the size of the source; else nothing is known, and
    `assumed` says so. Raises KiaraError for settings that contradict each other.
    """
    if (data := prepared(config, root)) is not None:
        meta = data.meta
        ids, tokens, conversations = meta.vocab_size, meta.train_tokens, bool(meta.conversations)
        said, assumed = f"{meta.source}, prepared", None
    else:
        ids, conversations, tokens = ids_of(config.tokenizer), False, None
        per_token = bytes_per_token(config.tokenizer, ids)
        said = str(config.data.source)
        try:
            with Source(config.data, means_of(config), lambda _: None, fetch=False) as source:
                tokens = int(source.size * (1 - config.data.val_fraction) / per_token)
            conversations = config.data.source == "tales"
            assumed = f"{ids:,} ids of {per_token:.1f} bytes each, as the data is not prepared"
        except (KiaraError, OSError):
            assumed = f"no data yet: {ids:,} ids, and as many tokens as the steps want"
    config = settle_sizes(config, ids)
    steps, limit = steps_of(config, tokens)
    return config, Facts(said, steps, limit, tokens, Rows(0.5 if conversations else 1.0, conversations), assumed)


def prepared(config: Config, root: Path) -> Prepared | None:
    """Open the newest data folder of this name, if its tokenizer is of the kind that is asked for."""
    if (folder := fetched(config.data.source, root)) is not None:
        return open_folder(folder)
    found = sorted(
        root.glob(f"{dataset_name(config.data)}-????????/meta.json"), key=lambda path: path.stat().st_mtime
    )
    for path in reversed(found):
        data = open_folder(path.parent)
        kind, most = config.tokenizer.kind, config.tokenizer.vocab_size
        if data.tokenizer.kind == kind and (kind not in ("bpe", "word") or data.meta.vocab_size <= most):
            return data
    return None


def ids_of(tokenizer: TokenizerConfig) -> int:
    """Return how many ids a tokenizer will have, at most."""
    if tokenizer.kind == "char":
        return CHARACTERS
    return IDS.get(tokenizer.kind, tokenizer.vocab_size)


def bytes_per_token(tokenizer: TokenizerConfig, ids: int) -> float:
    """Guess the bytes of text that an id stands for: 0.3 for each bit of the vocabulary.

    That is 3.9 for 8,192 ids; 3.84 were measured on Python's library.
    """
    return {"char": 1.0, "word": 5.0}.get(tokenizer.kind, 0.3 * math.log2(ids))


def steps_of(config: Config, tokens: int | None) -> tuple[int, str]:
    """Return how many updates there will be, and which setting says so. Raises KiaraError where only data says it."""
    train, limits = config.train, []
    if train.max_steps is not None:
        limits.append((train.max_steps, LIMITS[0]))
    if train.max_epochs is not None and tokens is not None:
        rows = tokens / config.model.context_length
        steps = math.ceil(train.max_epochs * rows / (train.batch_size * train.accumulation))
        limits.append((max(1, steps), LIMITS[1]))
    if not limits:
        raise KiaraError(
            f"train.max_epochs={train.max_epochs:g} of data that is not here: {config.data.source}",
            "name the data, or say how long: train.max_steps=1000",
            key="train.max_epochs",
        )
    return min(limits)
