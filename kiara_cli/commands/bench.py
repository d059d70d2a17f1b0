"""kiara bench: what this machine reaches with a model, and how near its own limits that is."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from kiara_cli.commands.options import ConfigFiles, Debug, Json, Words, read
from kiara_cli.errors import KiaraError


def bench(
    words: Words = None,
    config: ConfigFiles = None,
    shape: Annotated[
        Literal["m10", "m110"] | None,
        typer.Option(help="Measure a model of this shape instead: 14 or 110 million parameters, random weights."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Each measurement is the best of so many.")] = 3,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Measure this machine, and a model on it: training, prefill, decoding by dtype and bits, many requests."""
    from kiara_cli.commands.model import set_spin

    set_spin()  # as the commands that are measured here do
    from kiara_cli.console import output
    from kiara_cli.console.bench import show_bench
    from kiara_cli.core.lab.bench import bench_of

    given = read(words, config, command="bench")
    if shape and given.word:
        raise KiaraError(f"both {given.word} and --shape {shape}", "give one of them")
    name, work = bench_of(given.loaded, given.word, shape, rounds)
    output.note(f"Measuring {name}, {output.amount(work.count.parameters)} parameters; other work disturbs it.")
    show_bench(name, work, json_)
