"""kiara eval: a checkpoint and held-out text to numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kiara_cli.commands.options import DATA_ROOT, ConfigFiles, Debug, Json, SkipBad, Words, read


def eval(
    words: Words = None,
    config: ConfigFiles = None,
    split: Annotated[Literal["val", "train"], typer.Option(help="Which split of the model's own data.")] = "val",
    text: Annotated[Path | None, typer.Option("--text", metavar="FILE", help="Measure on this text instead.")] = None,
    samples: Annotated[
        int, typer.Option(min=0, help="Also generate: one sample greedily, then this many at random.")
    ] = 0,
    chat: Annotated[
        bool, typer.Option("--chat", help="Score conversation instead: held-out requests to a model of the tales.")
    ] = False,
    requests: Annotated[int, typer.Option(min=1, help="With --chat: how many requests for each seed.")] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="With --chat: how many seeds.")] = 3,
    skip_bad: SkipBad = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model: loss, perplexity, bits per byte and accuracy over a whole split."""
    from kiara_cli.commands.model import open_model, sections_for

    opened = open_model(read(words, config), sections_for(text))
    from kiara_cli.console.preparing import showing
    from kiara_cli.console.scores import show_chat_scores, show_metrics
    from kiara_cli.core.eval.held_out import HeldOut, ids_of, measure
    from kiara_cli.core.eval.samples import write_samples

    if chat:
        return show_chat_scores(opened, requests, seeds, json_)
    with showing() as report:
        where = HeldOut(DATA_ROOT, split, text, skip_bad, report)
        ids = ids_of(opened, where)
    metrics = measure(opened, ids, what=where.name if text else f"the {split} split")
    written = list(write_samples(opened, samples)) if samples else []
    show_metrics(str(opened.checkpoint.path), where.name, metrics, written, json_)
