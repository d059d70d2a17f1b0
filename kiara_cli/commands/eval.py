"""kiara eval: a checkpoint and held-out text to numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kiara_cli.commands.options import DATA_ROOT, ConfigFiles, Debug, Json, Words, read
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from kiara_cli.commands.model import Opened
    from kiara_cli.core.data.shards import Tokens


def eval(
    words: Words = None,
    config: ConfigFiles = None,
    split: Annotated[Literal["val", "train"], typer.Option(help="Which split of the model's own data.")] = "val",
    text: Annotated[Path | None, typer.Option("--text", metavar="FILE", help="Measure on this text instead.")] = None,
    samples: Annotated[
        int, typer.Option(min=0, help="Also let it write: one text greedily, then this many sampled.")
    ] = 0,
    chat: Annotated[
        bool, typer.Option("--chat", help="Score conversation instead: held-out requests to a model of the tales.")
    ] = False,
    requests: Annotated[int, typer.Option(min=1, help="With --chat: how many requests for each seed.")] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="With --chat: how many seeds.")] = 3,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model: loss, perplexity, bits per byte and accuracy over a whole split."""
    from kiara_cli.commands.model import open_model
    from kiara_cli.console import output
    from kiara_cli.core.eval.metrics import evaluate

    opened = open_model(read(words, config), ("tokenizer", "model", "data"))
    if chat:
        return show_chat_scores(opened, requests, seeds, json_)
    tokens = tokens_of(opened, split, text)
    settings = opened.config.eval
    metrics = evaluate(
        opened.model,
        tokens,
        opened.tokenizer,
        opened.runtime,
        settings.batch_size,
        settings.max_tokens,
    )
    values = {
        "checkpoint": str(opened.checkpoint.path),
        "split": str(text) if text else split,
        "loss": metrics.loss,
        "perplexity": metrics.perplexity,
        "bits_per_byte": metrics.bits_per_byte,
        "accuracy": metrics.accuracy,
        "tokens": metrics.tokens,
        "bytes": metrics.bytes,
    }
    written = list(write_samples(opened, samples)) if samples else []
    if json_:
        output.record(values | ({"samples": written} if written else {}))
        return
    shown = {key: f"{value:.4f}" if isinstance(value, float) else str(value) for key, value in values.items()}
    shown |= {key: f"{values[key]:,}" for key in ("tokens", "bytes")}
    output.facts("", [(key.replace("_", " "), value) for key, value in shown.items()], to_stdout=True)
    for sample in written:
        output.result(f"\n--- {sample['how']}\n{sample['text']}")


def tokens_of(opened: Opened, split: str, text: Path | None) -> Tokens:
    """Return the ids to measure on, of a file or of a split of the checkpoint's data."""
    import numpy as np

    from kiara_cli.console.preparing import prepare_showing
    from kiara_cli.core.data.encoding import encode_documents
    from kiara_cli.core.data.readers import read_documents

    if text is not None:
        documents = read_documents(str(text))
        return np.concatenate(list(encode_documents(documents, opened.tokenizer)))
    if not opened.checkpoint.data.get("folder"):
        raise KiaraError(f"{opened.checkpoint.path} was imported and has no text of its own", "give --text FILE")
    prepared = prepare_showing(opened.config, DATA_ROOT, opened.tokenizer, opened.checkpoint.data)
    return prepared.val if split == "val" else prepared.train


def write_samples(opened: Opened, number: int) -> list[dict[str, str]]:
    """Let the model write greedily once, then `number` times as config.generate says."""
    from dataclasses import replace

    from kiara_cli.commands.model import open_engine
    from kiara_cli.core.generate.text import complete

    config = opened.config
    engine = open_engine(opened)
    settings = replace(config.generate, max_new_tokens=max(1, config.eval.sample_tokens))
    first = settings.seed if settings.seed is not None else config.runtime.seed
    ways = [("greedy", replace(settings, temperature=0.0))]
    ways += [
        (f"temperature {settings.temperature}, seed {first + i}", replace(settings, seed=first + i))
        for i in range(number)
    ]
    prompt = config.eval.sample_prompt
    return [{"how": how, "text": prompt + complete(engine, opened.tokenizer, prompt, way).text} for how, way in ways]


def show_chat_scores(opened: Opened, requests: int, seeds: int, json_: bool) -> None:
    """Score replies greedily and at temperature 0.8, for each seed, and print them as a table."""
    from kiara_cli.commands.model import open_engine
    from kiara_cli.console import output
    from kiara_cli.console.scores import score_showing

    if not opened.checkpoint.data.get("conversations"):
        output.warn("this model learned from plain text, not from conversations: expect low scores")
    engine = open_engine(opened)
    rows = score_showing(engine, opened.tokenizer, opened.config.generate, requests, seeds)
    if json_:
        for row in rows:
            output.record({"checkpoint": str(opened.checkpoint.path), **row})
        return
    shown = [{key: f"{value:.1%}" if isinstance(value, float) and key != "temperature" else str(value)
              for key, value in row.items()} for row in rows]  # fmt: skip
    output.table(shown)
