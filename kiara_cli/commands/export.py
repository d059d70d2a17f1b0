"""kiara export: a checkpoint to files that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kiara_cli.commands.options import ConfigFiles, Debug, Json, Words, read
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from kiara_cli.commands.model import Opened
    from kiara_cli.core.export.check import Report


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
    check: Annotated[
        bool, typer.Option("--check", help="Ask transformers or llama.cpp whether it computes the same.")
    ] = False,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="With --check: compare on this held-out text.")
    ] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Write a model as other programs want it: kiara export --to hf --out my-model."""
    from kiara_cli.commands.model import open_model
    from kiara_cli.console import output

    if to not in ("hf", "gguf") and (check or quant != "f32"):
        raise KiaraError(f"--to {to} has neither --check nor --quant", "leave them out, or use --to hf or gguf")
    opened = open_model(read(words, config), ("tokenizer", "model", "data"))
    report = None
    with writing(opened, to, out, quant) as partial:
        if check:
            report = compared(opened, to, partial, quant, text)
            if not report.passed:
                found = ", ".join(f"{key} {value}" for key, value in report.values().items())
                output.warn(f"not the same model, so nothing was written: {found}")
                raise typer.Exit(1)
    if json_:
        made = {"checkpoint": str(opened.checkpoint.path), "to": to, "out": str(out), "quant": quant}
        output.record(made | ({"check": report.values()} if report else {}))
        return
    output.result(str(out))
    if report:
        output.facts("Checked", [(key.replace("_", " "), str(value)) for key, value in report.values().items()])


def writing(opened: Opened, to: str, out: Path, quant: str) -> AbstractContextManager[Path]:
    """Return the export as a block: it takes its name when the block ends without an error."""
    from kiara_cli.core.export import gguf, huggingface, safetensors, tokenizer
    from kiara_cli.core.export.reading import as_imported

    if to == "safetensors":
        return safetensors.writing(opened.checkpoint, out)
    if to == "tokenizer":
        return tokenizer.writing(opened.tokenizer, out, opened.config.model.context_length)
    model, weights = as_imported(opened.checkpoint, opened.config.model)
    if to == "hf":
        talks = bool(opened.checkpoint.data.get("conversations"))
        return huggingface.writing(model, weights, opened.tokenizer, out, quant, talks)
    name = str(opened.checkpoint.data.get("name") or "kiara")
    return gguf.writing(model, weights, opened.tokenizer, out, quant, name)


def compared(opened: Opened, to: str, partial: Path, quant: str, text: Path | None) -> Report:
    """Compare the export with the checkpoint on held-out text. Raises KiaraError if there is too little of it."""
    from kiara_cli.commands.eval import tokens_of
    from kiara_cli.core.export.check import check_export
    from kiara_cli.core.export.reading import as_imported

    ids = tokens_of(opened, "val", text)
    if len(ids) < 4:
        raise KiaraError(f"the held-out text has {len(ids)} tokens, too few to compare on", "give --text FILE")
    model, weights = as_imported(opened.checkpoint, opened.config.model)
    return check_export(to, partial, quant, model, weights, opened.tokenizer, ids)
