"""kiara eval: a checkpoint and held-out text to numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from kiara_cli.commands.options import DATA_ROOT, ConfigFiles, Debug, HookFiles, Json, SkipBad, Words, read


def eval(
    words: Words = None,
    config: ConfigFiles = None,
    split: Annotated[Literal["val", "train"], typer.Option(help="Which split of the model's own data.")] = "val",
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE|-", help="Measure on this text instead; - reads stdin.")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens between two windows: below the context, each is read with more."),
    ] = None,
    details: Annotated[
        bool,
        typer.Option("--details", help="Also calibration, where the loss comes from, repetition and novelty."),
    ] = False,
    samples: Annotated[
        int, typer.Option(min=0, help="Also generate: one sample greedily, then this many at random.")
    ] = 0,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Score conversation instead: held-out requests or talks."),
    ] = False,
    requests: Annotated[int, typer.Option(min=1, help="With --chat: how many requests for each seed.")] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="With --chat: how many seeds.")] = 3,
    skip_bad: SkipBad = False,
    hooks: HookFiles = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model: loss, perplexity, bits per byte and accuracy over a whole split."""
    from kiara_cli.commands.model import open_model, sections_for

    given = read([*(words or ()), *([] if stride is None else [f"eval.stride={stride}"])], config)
    opened = open_model(given, sections_for(text), hooks=hooks or ())
    from kiara_cli.console.preparing import showing
    from kiara_cli.console.scores import show_chat_scores, show_report
    from kiara_cli.core.eval.held_out import HeldOut
    from kiara_cli.core.eval.report import report as measured

    if chat:
        from kiara_cli.console.worlds import show_world_scores
        from kiara_cli.core.data.worlds.read import world_of

        if (world := world_of(opened.config.data.source)) is not None:
            return show_world_scores(opened, world, requests, seeds, json_)
        return show_chat_scores(opened, requests, seeds, json_)
    with showing() as progress:
        where = HeldOut(DATA_ROOT, split, text, skip_bad, progress, sys.stdin.buffer)
        found = measured(opened, where, samples, details)
    show_report(found, json_)
