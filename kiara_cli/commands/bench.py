"""kiara bench: what this machine reaches with a model, and how near its own limits that is."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kiara_cli.commands.options import ConfigFiles, Debug, Json, Words, read
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from kiara_cli.commands.options import Given
    from kiara_cli.core.lab.bench import Bench, Measured
    from kiara_cli.core.runtime.machine import Peaks


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
    """Measure this machine, and a model on it: training, reading, writing by dtype and bits, many texts at once."""
    from kiara_cli.commands.model import SPIN

    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)  # before torch, as the commands that are measured here do
    from kiara_cli.console import output
    from kiara_cli.core.runtime.machine import Peaks

    given = read(words, config)
    if shape and given.word:
        raise KiaraError(f"both {given.word} and --shape {shape}", "give one of them")
    name, work = bench_of(given, shape, rounds)
    output.note(f"Measuring {name}, {output.amount(work.count.parameters)} parameters; other work disturbs it.")
    machine: dict[str, Any] = {}
    found: list[Measured] = []
    for event in work.run():
        if isinstance(event, Peaks):
            machine = dataclasses.asdict(event)
            if not json_:
                show_machine(event)
        else:
            found.append(event)
            output.note(f"{event.what}, {event.dtype}, {event.streams}")
    rows = [dataclasses.asdict(one) | {"fraction_of_peak": one.fraction} for one in found]
    if json_:
        parameters = work.count.parameters
        output.record({"machine": machine, "model": name, "parameters": parameters, "measurements": rows})
        return
    output.table(
        [
            {
                "measurement": one.what,
                "weights": one.dtype,
                "texts": str(one.streams),
                "tokens/s": f"{one.tokens_per_second:,.0f}",
                "at the peak": f"{one.floor:,.0f}",
                "fraction": f"{one.fraction:.2f}",
            }
            for one in found
        ]
    )


def bench_of(given: Given, shape: str | None, rounds: int) -> tuple[str, Bench]:
    """Return what to measure and its name: a shape, or a checkpoint with all its weights in full."""
    from kiara_cli.config.load import adopt
    from kiara_cli.core.checkpoint.find import open_checkpoint
    from kiara_cli.core.generate.engine import Options
    from kiara_cli.core.lab.bench import SHAPES, STREAMS, Bench
    from kiara_cli.core.model.transformer import Transformer
    from kiara_cli.core.runtime.device import decide

    if shape is not None:
        config, weights, name = given.loaded.config, None, shape
        config = dataclasses.replace(config, model=SHAPES[shape])
    else:
        checkpoint, _ = open_checkpoint(given.word)
        config = adopt(given.loaded, checkpoint.config, ("tokenizer", "model"), str(checkpoint.path))
        weights, name = checkpoint.full_weights(), str(checkpoint.path)
    runtime = decide(config.runtime)
    model = Transformer(config.model)
    if weights is not None:
        from kiara_cli.core.checkpoint.files import load_weights

        load_weights(model, weights, name)
    options = Options(STREAMS[-1], native=config.runtime.native)
    return name, Bench(model.to(runtime.device).eval(), config, runtime, options, rounds)


def show_machine(peaks: Peaks) -> None:
    """Print what the machine can do."""
    from kiara_cli.console import output

    rows = [("processor", f"{peaks.processor}, {peaks.threads} threads")]
    rows += [(f"products in {dtype}", f"{output.amount(rate, 'FLOP/s')}") for dtype, rate in peaks.flops.items()]
    rows.append(("memory, reading", output.amount(peaks.memory, "B/s")))
    output.facts("This machine", rows, to_stdout=True)
