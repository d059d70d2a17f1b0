"""kiara eval: a checkpoint and held-out text to numbers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kiara_cli.commands.group import group, refuse_in_group
from kiara_cli.commands.options import DATA_ROOT, ConfigFiles, Debug, Given, HookFiles, Json, SkipBad, Words, read
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from kiara_cli.core.generate.opened import Opened
    from kiara_cli.core.runtime.parallel import World

TALKS = 100

Split = Annotated[Literal["val", "train"], typer.Option(help="Which split of the model's own data.")]
Text = Annotated[
    Path | None, typer.Option("--text", metavar="FILE|-", help="Measure on this text instead; - reads stdin.")
]
Stride = Annotated[
    int | None,
    typer.Option(metavar="N", help="Tokens between two windows; below the context each is read with more."),
]
Details = Annotated[
    bool, typer.Option("--details", help="Also calibration, where the loss comes from, repetition and novelty.")
]
Samples = Annotated[int, typer.Option(min=0, help="Also generate: one sample greedily, then this many at random.")]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks",
        metavar="FILE|NAME",
        help="Answer questions instead: a .jsonl of multiple choice, or a .yaml or a name of lm-evaluation-harness "
        "(extra eval); may be repeated.",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="With --tasks: only so many questions, the first ones.")]
Shots = Annotated[int | None, typer.Option(min=0, help="With --tasks, harness: examples before each question.")]
Online = Annotated[bool, typer.Option("--online", help="With --tasks: let data sets be downloaded.")]
Trust = Annotated[
    bool, typer.Option("--trust-code", help="With --tasks: run the Python functions that a .yaml names.")
]
Chat = Annotated[bool, typer.Option("--chat", help="Score talks of ten turns instead, in words held out.")]
Talks = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="With --chat: how many talks for each seed; 100.")
]
Seeds = Annotated[int | None, typer.Option(min=1, help="With --chat: how many draws of talks; 1.")]
SmallWorld = Annotated[
    str | None,
    typer.Option(
        "--world", metavar="FILE|NAME", help="With --chat: the small world, if not the one it learned from."
    ),
]
ShowWrong = Annotated[
    int | None,
    typer.Option("--show-wrong", min=1, metavar="N", help="With --chat: print N talks with wrong replies."),
]


def eval(
    words: Words = None,
    config: ConfigFiles = None,
    split: Split = "val",
    text: Text = None,
    stride: Stride = None,
    details: Details = False,
    samples: Samples = 0,
    tasks: Tasks = None,
    limit: Limit = None,
    shots: Shots = None,
    online: Online = False,
    trust_code: Trust = False,
    chat: Chat = False,
    talks: Talks = None,
    seeds: Seeds = None,
    show_wrong: ShowWrong = None,
    small_world: SmallWorld = None,
    skip_bad: SkipBad = False,
    hooks: HookFiles = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model: loss, perplexity, bits per byte and accuracy over a whole split."""
    with group() as world:
        given = read([*(words or ()), *([] if stride is None else [f"eval.stride={stride}"])], config, command="eval")
        measuring = {"--text": text, "--stride": stride, "--details": details, "--samples": samples}
        answering = {"--limit": limit, "--shots": shots, "--online": online, "--trust-code": trust_code}
        talking = {"--talks": talks, "--seeds": seeds, "--show-wrong": show_wrong, "--world": small_world}
        check_together("--tasks FILE", tasks is not None, {**measuring, "--chat": chat}, answering)
        check_together("--chat", chat, measuring, talking)
        if world.size > 1:
            check_group(world, {"--tasks": tasks, "--chat": chat}, text)
        if tasks:
            return answer(given, tasks, limit, shots, online, trust_code, hooks or (), json_)
        from kiara_cli.commands.model import open_model, sections_for

        opened = open_model(given, sections_for(text), hooks=hooks or (), world=world)
        if chat:
            return score_talks(opened, small_world, talks or TALKS, seeds or 1, show_wrong or 0, json_)
        from kiara_cli.console.preparing import showing
        from kiara_cli.console.scores import show_report
        from kiara_cli.core.eval.held_out import HeldOut
        from kiara_cli.core.eval.report import report

        with showing() as progress:
            where = HeldOut(DATA_ROOT, split, text, skip_bad, progress, sys.stdin.buffer)
            found = report(opened, where, samples, details, world)
        show_report(found, json_)


def answer(
    given: Given,
    tasks: list[str],
    limit: int | None,
    shots: int | None,
    online: bool,
    trusted: bool,
    hooks: Sequence[str],
    json_: bool,
) -> None:
    """Answer the questions of tasks; a wrong file is said before a checkpoint is looked for."""
    from kiara_cli.commands.model import open_model

    stay_offline(online)
    from kiara_cli.console.scores import show_tasks
    from kiara_cli.core.eval.tasks import read_tasks

    wanted = read_tasks(tasks, limit, shots, trusted)
    show_tasks(open_model(given, hooks=hooks), wanted, json_)


def check_group(world: World, single: dict[str, object], text: Path | None) -> None:
    """Raise KiaraError for what only one process can do; give each process of a machine a device of its own."""
    from kiara_cli.core.data.listing import is_pipe
    from kiara_cli.core.runtime.ranks import take_device

    piped = text is not None and (text == Path("-") or is_pipe(str(text)))
    for option, asked in {**single, "a text from a pipe": piped}.items():
        if asked:
            refuse_in_group(world, option)
    take_device(world)


def score_talks(opened: Opened, world: str | None, talks: int, seeds: int, wrong: int, json_: bool) -> None:
    """Score talks in a small world: that which was named, or else that which the model learned from."""
    from kiara_cli.console.worlds import show_world_scores
    from kiara_cli.core.data.worlds.read import world_of

    source = world or opened.config.data.source
    if (found := world_of(source)) is not None:
        return show_world_scores(opened, found, talks, seeds, wrong, json_)
    cause = f"{source} is no small world here" if world else f"this model learned from {source}, no small world here"
    raise KiaraError(cause, "say which world it is to be scored in: --world FILE")


def check_together(way: str, on: bool, others: Mapping[str, object], its: Mapping[str, object]) -> None:
    """Refuse an option that would do nothing beside a way of measuring, or one of its own without it."""
    name = way.split()[0]
    for option, given in (others if on else its).items():
        if given not in (None, False, 0):
            cause = f"{name} and {option}" if on else f"{option} without {name}"
            raise KiaraError(cause, f"leave {option} out" if on else f"say which: {way}")


def stay_offline(online: bool) -> None:
    """Keep Hugging Face's packages from the network, unless that is asked for; they look when they are imported."""
    if not sys.stderr.isatty():
        os.environ.update(TQDM_DISABLE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    if not online:
        os.environ.update(HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
