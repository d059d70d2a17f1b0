"""kiara plan: what a training will cost, on this machine or on another, before anything is there."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from kiara_cli.commands.options import DATA_ROOT, ConfigFiles, Debug, Json, read
from kiara_cli.errors import KiaraError


def plan(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH] [KEY=VALUE]...", help="Text to learn from, and settings, as of kiara train."),
    ] = None,
    config: ConfigFiles = None,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="this, or a device: h100, a100, 4090, m3 …")
    ] = "this",
    devices: Annotated[int, typer.Option("--devices", metavar="N", help="So many of them.")] = 1,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="CHECKPOINT", help="Start from these weights.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Take a few real updates of this shape; nothing of them is kept.")
    ] = False,
    price: Annotated[
        float | None, typer.Option("--price-per-hour", min=0, metavar="$", help="Of one device.")
    ] = None,
    watts: Annotated[float | None, typer.Option("--watts", min=0, help="Of one device.")] = None,
    link: Annotated[
        float | None, typer.Option("--link", min=0.001, metavar="GB/S", help="Between two devices, one way.")
    ] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Estimate a training before it starts: memory, time, energy, cost; each number with its basis and a check."""
    from kiara_cli.commands.model import set_spin

    given = read(words, config, command="plan")
    set_spin()  # as the training that is estimated does
    from kiara_cli.config.load import adopt
    from kiara_cli.console import output
    from kiara_cli.console.plan import show_estimate
    from kiara_cli.core.checkpoint.find import open_checkpoint
    from kiara_cli.core.lab.planning.make import Asked, estimate_before

    settings, base = given.loaded.config, None
    if from_ is not None:
        base, _ = open_checkpoint(from_)
        settings = adopt(given.loaded, base.config, ("tokenizer", "model"), str(base.path))
    if given.word is not None:
        settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, source=given.word))
    asked = Asked(device, devices, price, watts, None if link is None else 1e9 * link, measure)
    estimate = estimate_before(settings, DATA_ROOT, asked, base)
    show_estimate(estimate, json_)
    if estimate.missing:
        from kiara_cli.core.lab.planning.advice import remedies

        found = list(remedies(estimate))
        fits = [f"{what} ({output.amount(size, 'B')})" for what, size, does in found if does]
        near = [f"{what} still needs {output.amount(size, 'B')}" for what, size, _ in found[-1:]]
        raise KiaraError(
            f"it does not fit: {output.amount(estimate.peak, 'B')} on {estimate.target.name} with "
            f"{output.amount(estimate.target.available or 0, 'B')}, {output.amount(estimate.missing, 'B')} too much",
            f"would fit: {', '.join(fits)}" if fits else f"a smaller model: {', '.join(near)}",
        )
