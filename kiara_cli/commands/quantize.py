"""kiara quantize: a checkpoint to one with 8 or 4 bits a weight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kiara_cli.commands.options import DATA_ROOT, ConfigFiles, Debug, Json, Words, read
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from kiara_cli.commands.model import Opened
    from kiara_cli.core.lab.shrink import Texts

HELD_OUT = 10  # of a text given with --text, one part in so many is measured on and not calibrated on


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
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Make a model smaller and faster: kiara quantize checkpoints/best.pt --bits 4 --out small.pt."""
    from kiara_cli.commands.model import open_engine, open_model
    from kiara_cli.console import output
    from kiara_cli.console.shrinking import draw_errors, shrink_showing
    from kiara_cli.core.checkpoint.files import SUFFIXES
    from kiara_cli.core.export.target import check_free, check_suffix
    from kiara_cli.core.lab.shrink import Shrinking
    from kiara_cli.core.quantize.scheme import asked_for

    check_suffix(out, SUFFIXES)
    check_free(out)
    given = read([*(words or ()), *chosen(method, group_size)], config)
    opened = open_model(given, ("tokenizer", "model", "data"))
    if (scheme := opened.checkpoint.quantize) is not None:
        raise KiaraError(
            f"{opened.checkpoint.path} has {scheme['bits']} bits a weight already",
            "quantize the checkpoint that it was made from",
        )
    wanted = asked_for(int(bits), opened.config.quantize, opened.config.model)
    work = Shrinking(
        opened.checkpoint, opened.config, opened.tokenizer, opened.runtime, wanted,
        lambda model: open_engine(opened, model),
    )  # fmt: skip
    work.check(opened.model)
    report = shrink_showing(work, opened.model, texts_of(opened, text, wanted.method), out)
    if json_:
        output.record(report.record())
        return
    draw_errors(report.layers)
    output.facts("", report.rows(), to_stdout=True)
    output.hint(f"Try it:  kiara generate {out} --prompt 'Once'")


def chosen(method: str | None, group_size: int | None) -> list[str]:
    """Return the options that were given as settings."""
    settings = {"method": method, "group_size": group_size}
    return [f"quantize.{key}={value}" for key, value in settings.items() if value is not None]


def texts_of(opened: Opened, text: Path | None, method: str) -> Texts:
    """Return the ids to calibrate on and those to measure on. Raises KiaraError if GPTQ has none."""
    from kiara_cli.commands.eval import tokens_of
    from kiara_cli.console import output
    from kiara_cli.console.preparing import prepare_showing
    from kiara_cli.core.lab.shrink import Texts

    if text is not None:
        ids = tokens_of(opened, "val", text)
        cut = len(ids) - len(ids) // HELD_OUT
        return Texts(ids[:cut], ids[cut:])
    recorded = opened.checkpoint.data
    try:
        if not recorded.get("folder"):
            raise KiaraError(f"{opened.checkpoint.path} was imported and has no text of its own", "")
        prepared = prepare_showing(opened.config, DATA_ROOT, opened.tokenizer, recorded)
    except KiaraError as error:
        if method == "gptq":
            raise KiaraError(
                f"there is nothing to calibrate on: {error.cause}", "give --text FILE, or use --method rtn"
            ) from None
        output.note(f"Not measured: {error.cause}.")
        return Texts(None, None)
    return Texts(prepared.train, prepared.val)
