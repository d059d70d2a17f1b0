"""kiara import: a Hugging Face folder to a checkpoint that every command reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kiara_cli.commands import completion
from kiara_cli.commands.options import DATA_ROOT, ConfigFiles, Debug, Json, read
from kiara_cli.config.folders import expanded
from kiara_cli.errors import KiaraError


def import_(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="FOLDER", help="With config.json, model.safetensors and tokenizer.json."),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="The .pt or .safetensors to write; it must not exist.")
    ] = Path("models/imported.pt"),
    config: ConfigFiles = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="FILE_OR_CHECKPOINT",
            help="A Kiara tokenizer instead of the folder's tokenizer.json.",
            autocompletion=completion.checkpoints,
        ),
    ] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Read a Llama, Mistral, Qwen, Gemma, GPT-2 or Pythia of Hugging Face's: kiara import FOLDER --out name.pt.

    Only JSON and safetensors are opened, and no code of the folder is run. model.context_length=N shortens the
    context of a model with rotary positions.
    """
    from kiara_cli.console import output
    from kiara_cli.core.checkpoint import files
    from kiara_cli.core.checkpoint.tokenizers import open_tokenizer
    from kiara_cli.core.export.reading import read_folder
    from kiara_cli.core.export.target import check_free, check_suffix

    given = read(words, config, command="import")
    if given.word is None:
        raise KiaraError("no folder to import", "kiara import FOLDER --out PATH")
    check_suffix(out, files.SUFFIXES)
    check_free(out)
    typed = given.loaded.origins.get("model.context_length") == "command line"
    checkpoint = read_folder(
        expanded(given.word),
        open_tokenizer(tokenizer, "", DATA_ROOT) if tokenizer else None,
        given.loaded.config.model.context_length if typed else None,
    )
    files.save(checkpoint, out)
    parameters = sum(weight.numel() for weight in checkpoint.model.values())
    if json_:
        output.record({"out": str(out), "parameters": parameters, "model": checkpoint.config["model"]})
        return
    output.result(str(out))
    output.hint(f"{output.amount(parameters)} parameters. Try it:  kiara generate {out} --prompt 'Once'")
