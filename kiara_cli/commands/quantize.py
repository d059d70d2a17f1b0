"""kiara quantize: a checkpoint to one with 8 or 4 bits a weight."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kiara_cli.commands.options import DATA_ROOT, ConfigFiles, Debug, Json, SkipBad, Words, read


def quantize(
    bits: Annotated[Literal["8", "4"], typer.Option(help="Bits a weight.")],
    out: Annotated[Path, typer.Option(metavar="PATH", help="The .pt or .safetensors to write; it must not exist.")],
    words: Words = None,
    config: ConfigFiles = None,
    method: Annotated[
        Literal["gptq", "rtn"] | None,
        typer.Option(help="gptq: round by what changes least on the run's text; rtn: each number to the nearest."),
    ] = None,
    group_size: Annotated[
        int | None, typer.Option(min=2, help="With 4 bits: columns of a row that share a scale.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="Calibrate and measure on this text instead.")
    ] = None,
    skip_bad: SkipBad = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Make a model smaller and faster: kiara quantize checkpoints/best.pt --bits 4 --out small.pt."""
    from kiara_cli.commands.model import open_model, sections_for, set_spin

    set_spin()
    from kiara_cli.console import output
    from kiara_cli.console.preparing import showing
    from kiara_cli.console.quantizing import draw_errors, show_rounding
    from kiara_cli.core.checkpoint.files import SUFFIXES
    from kiara_cli.core.eval.held_out import HeldOut
    from kiara_cli.core.export.target import check_free, check_suffix
    from kiara_cli.core.lab import quantizing
    from kiara_cli.core.quantize.scheme import asked_for

    check_suffix(out, SUFFIXES)
    check_free(out)
    chosen = {"quantize.method": method, "quantize.group_size": group_size}
    settings = [f"{key}={value}" for key, value in chosen.items() if value is not None]
    opened = open_model(read([*(words or ()), *settings], config, command="quantize"), sections_for(text), hooks=None)
    scheme = asked_for(int(bits), opened.config.quantize, opened.config.model)
    quantizing.check(opened, scheme)
    with showing() as report:
        ids = quantizing.ids_for(opened, scheme, HeldOut(DATA_ROOT, text=text, skip_bad=skip_bad, report=report))
    made = show_rounding(quantizing.quantize(opened, scheme, *ids, out), 4 * opened.config.model.n_layers + 2)
    if json_:
        return output.record(made.record())
    draw_errors(made.layers)
    output.facts("", made.rows(), to_stdout=True)
    output.hint(f"Try it:  kiara generate {out} --prompt 'Once'")
