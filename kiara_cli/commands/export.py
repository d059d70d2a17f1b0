"""kiara export: a checkpoint to files that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kiara_cli.commands.options import DATA_ROOT, ConfigFiles, Debug, Json, SkipBad, Words, read


def export(
    to: Annotated[
        Literal["hf", "gguf", "safetensors", "tokenizer"],
        typer.Option(
            help="hf: a folder for transformers, vLLM and others; gguf: a file for llama.cpp, ollama and others; "
            "safetensors: one file with all in it; tokenizer: tokenizer.json, vocab.json and merges.txt."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="PATH", help="The folder or file to write; it must not exist.")],
    words: Words = None,
    config: ConfigFiles = None,
    quant: Annotated[
        Literal["f32", "f16", "bf16", "q8_0", "q4_0"],
        typer.Option(help="How to store matrices: 32 or 16 bits a number or, with gguf, about 8 or 4."),
    ] = "f32",
    merge: Annotated[
        bool, typer.Option("--merge", help="Of an adapter: add it to the weights that it was trained on.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Ask transformers or llama.cpp whether it computes the same.")
    ] = False,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="With --check: compare on this held-out text.")
    ] = None,
    skip_bad: SkipBad = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Write a model as other programs want it: kiara export --to hf --out my-model."""
    from kiara_cli.commands.model import open_model, sections_for, set_spin

    set_spin()
    from kiara_cli.console import output
    from kiara_cli.console.preparing import showing
    from kiara_cli.core.eval.held_out import HeldOut
    from kiara_cli.core.export import formats, modelfile

    formats.check(to, quant, check)
    opened = open_model(read(words, config, command="export"), sections_for(text), hooks=None)
    formats.check_merge(opened, to, merge)
    report = None
    with formats.writing(opened, to, out, quant) as partial:
        if check:
            with showing() as progress:
                where = HeldOut(DATA_ROOT, text=text, skip_bad=skip_bad, report=progress)
                report = formats.compared(opened, to, partial, quant, where)
            if not report.passed:
                found = ", ".join(f"{key} {value}" for key, value in report.values().items())
                output.warn(f"not the same model, so nothing was written: {found}")
                raise typer.Exit(1)
    commands = modelfile.commands(out) if to == "gguf" else []
    if json_:
        made: dict[str, Any] = {"checkpoint": str(opened.checkpoint.path), "to": to, "out": str(out), "quant": quant}
        made |= {"commands": commands} if commands else {}
        return output.record(made | ({"check": report.values()} if report else {}))
    output.result(str(out))
    for command in commands:
        output.hint(command)
    if report:
        output.facts("Checked", [(key.replace("_", " "), str(value)) for key, value in report.values().items()])
